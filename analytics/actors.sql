-- actors: who caused each event of `batch`, and whose site it was on; personal data.
-- The rest of what `facts` shows comes from eventstore/projections/facts.sql. No projection asks who, so this stands apart
-- from it: a rebuild of events that all carry it would take some 4 % longer, and its models would hold identities.
SELECT
    position,
    doc.actor.type                      AS actor_type,
    doc.actor.id                        AS actor_id,
    doc.account.account_id              AS account_id,
    doc.account.site_id                 AS account_site_id
FROM (
    SELECT
        position,
        from_json(
            payload,
            '{"actor": {"type": "VARCHAR", "id": "VARCHAR"}, "account": {"account_id": "VARCHAR", "site_id": "VARCHAR"}}'
        ) AS doc
    FROM batch
)
