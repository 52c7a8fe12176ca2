-- report: code-reuse
-- title: Code reuse
-- group: checks
-- question: Which codes have several coupons of one site had, when did each have it, and was that at the same time?
-- parameter: site  text       null  Only this site; null: every site.
-- parameter: code  text       null  Only this code, in any case; null: every code.
-- parameter: at    timestamp  null  The moment that coupons have expired by; null: now.
-- parameter: limit count      1000  Only so many codes, those that an event showed last; null: all of them.
-- column: site_id     text     The site (Wix app instance) that the coupons belong to.
-- column: code        text     The code as this coupon last spelled it; codes are the same whatever their case.
-- column: coupons     coupons  How many coupons of the site have had this code.
-- column: coupon_id   text     Wix's id of this one of them.
-- column: name        text     Its name in the dashboard now.
-- column: had_from    time     The first event that shows it with this code.
-- column: had_until   time     Its deletion or its end; of a former code, the last event that shows it; null: to this day.
-- column: overlaps    boolean  Whether another of these coupons had the code during that time.
-- column: times_used  uses     Uses of this coupon under this code: an order counts once.
-- column: has_it_now  boolean  Whether this is its code now, or was when it was deleted.
-- column: deleted     boolean  Whether the coupon is deleted now.
-- table: code, coupon_id, name, had_from, had_until, overlaps, times_used, has_it_now, deleted

-- Codes and coupons are first brought together by numbers, with a row for each of a coupon's codes: all else is looked up for the
-- codes that are listed. Most coupons only ever had one code: their signs tell it, and the log is asked about the others alone.
WITH spelled AS (
    SELECT coupon_key, least_code AS code, coded_first AS first_at, coded_last AS last_at
    FROM coupon_signs
    WHERE
        least_code = greatest_code
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($code AS VARCHAR) IS NULL OR lower(least_code) = lower($code))
    UNION ALL
    SELECT coupon_key, code, min(event_time), max(event_time)
    FROM facts
    WHERE
        coupon_key IN (SELECT coupon_key FROM coupon_signs WHERE least_code <> greatest_code)
        -- The loyalty side tells of a coupon too, but not what it is now.
        AND type IN ('coupon.created', 'coupon.updated', 'coupon.deleted', 'coupon.applied', 'coupon.observed')
        AND has_coupon
        AND code IS NOT NULL
        AND (CAST($site AS VARCHAR) IS NULL OR site_id = $site)
        AND (CAST($code AS VARCHAR) IS NULL OR lower(code) = lower($code))
    GROUP BY coupon_key, code
),
sited AS (
    SELECT
        coupons.site_id, coupons.coupon_id, spelled.coupon_key, spelled.code, lower(spelled.code) AS same_code,
        spelled.first_at, spelled.last_at
    FROM spelled
    JOIN coupons ON coupons.coupon_key = spelled.coupon_key
),
reused AS (
    SELECT
        site_id,
        same_code,
        row_number() OVER (ORDER BY max(last_at) DESC, same_code, site_id)
                                                        AS place
    FROM sited
    GROUP BY site_id, same_code
    HAVING min(coupon_key) <> max(coupon_key)
),
shown AS (
    SELECT
        sited.site_id,
        sited.same_code,
        sited.coupon_id,
        sited.coupon_key,
        -- Of two spellings of the same time one, and always the same.
        arg_max(sited.code, (sited.last_at, sited.code)) AS code,
        min(sited.first_at)                             AS first_at,
        max(sited.last_at)                              AS last_at
    FROM sited
    JOIN reused
        ON reused.same_code = sited.same_code AND reused.site_id = sited.site_id
    WHERE CAST($limit AS BIGINT) IS NULL OR reused.place <= $limit
    GROUP BY sited.site_id, sited.same_code, sited.coupon_id, sited.coupon_key
),
counted AS (
    SELECT *, count(*) OVER (PARTITION BY site_id, same_code) AS coupons
    FROM shown
),
lasted AS (
    SELECT
        counted.site_id,
        counted.same_code,
        counted.code,
        counted.coupons,
        counted.coupon_id,
        counted.coupon_key,
        coupons.name,
        counted.first_at                                AS had_from,
        CASE
            WHEN coupons.code IS NULL OR lower(coupons.code) <> counted.same_code THEN counted.last_at
            -- A deletion is known to be later than the first event only where the clocks of all agree.
            WHEN coupons.deleted THEN
                greatest(least(coupons.deleted_at, coupons.expiration_time), counted.first_at)
            WHEN coupons.expiration_time <= coalesce(CAST($at AS TIMESTAMPTZ), now()) THEN
                greatest(coupons.expiration_time, counted.first_at)
        END                                             AS had_until,
        coalesce(lower(coupons.code) = counted.same_code, false)
                                                        AS has_it_now,
        coupons.code                                    AS code_now,
        coupons.deleted
    FROM counted
    JOIN coupons ON coupons.coupon_key = counted.coupon_key
),
several AS (
    SELECT *, coalesce(had_until, TIMESTAMPTZ '9999-12-31 23:59:59.999999+00') AS until
    FROM lasted
),
-- Of all that began to have a code at a time: how many had it for a while, until when those before them had it, and when the next
-- began. It tells who overlaps, where to compare each with each would take a million steps for a thousand coupons.
starts AS (
    SELECT
        site_id, same_code, had_from, lasting,
        max(until) OVER (
            PARTITION BY site_id, same_code ORDER BY had_from ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )                                               AS until_before,
        lead(had_from) OVER (PARTITION BY site_id, same_code ORDER BY had_from)
                                                        AS next_from
    FROM (
        SELECT
            site_id, same_code, had_from, max(until) AS until,
            count(*) FILTER (WHERE until > had_from)    AS lasting
        FROM several
        GROUP BY site_id, same_code, had_from
    ) AS at_once
),
uses AS (
    -- Of a coupon that only ever had this code, every use was under it: the projection has counted them.
    SELECT several.same_code, several.coupon_key, coupon_usage.times_used
    FROM several
    JOIN coupon_signs ON coupon_signs.coupon_key = several.coupon_key
    JOIN coupon_usage ON coupon_usage.coupon_key = several.coupon_key
    WHERE coupon_signs.least_code = coupon_signs.greatest_code AND several.has_it_now
    UNION ALL
    SELECT several.same_code, several.coupon_key, count(*)
    FROM several
    JOIN coupon_signs ON coupon_signs.coupon_key = several.coupon_key
    JOIN redemptions
        ON redemptions.coupon_key = several.coupon_key
        -- A use that does not show its code counts for the one that the coupon has now.
        AND lower(coalesce(redemptions.code, several.code_now)) = several.same_code
    WHERE coupon_signs.least_code <> coupon_signs.greatest_code OR NOT several.has_it_now
    GROUP BY several.same_code, several.coupon_key
)
SELECT
    several.site_id                                     AS site_id,
    several.code                                        AS code,
    several.coupons                                     AS coupons,
    several.coupon_id                                   AS coupon_id,
    several.name                                        AS name,
    several.had_from                                    AS had_from,
    several.had_until                                   AS had_until,
    coalesce(starts.until_before > several.had_from, false)
    OR coalesce(several.had_until IS NULL OR several.had_from < several.had_until, false)
    AND (starts.lasting > 1 OR coalesce(starts.next_from < several.until, false))
                                                        AS overlaps,
    coalesce(uses.times_used, 0)                        AS times_used,
    several.has_it_now                                  AS has_it_now,
    several.deleted                                     AS deleted
FROM several
JOIN starts
    ON starts.site_id = several.site_id AND starts.same_code = several.same_code AND starts.had_from = several.had_from
LEFT JOIN uses
    ON uses.coupon_key = several.coupon_key AND uses.same_code = several.same_code
ORDER BY several.same_code, several.site_id, had_from, several.coupon_id
