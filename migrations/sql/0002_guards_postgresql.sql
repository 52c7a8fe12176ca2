-- A signature can be checked years later only with the key that was valid then: keys are retired, never deleted or changed.

CREATE TRIGGER wix_app_keys_no_rewrite BEFORE UPDATE OF id, app_id, key_id, public_key, added_at ON wix_app_keys
FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER wix_app_keys_no_delete BEFORE DELETE ON wix_app_keys FOR EACH ROW EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER wix_app_keys_no_truncate BEFORE TRUNCATE ON wix_app_keys
FOR EACH STATEMENT EXECUTE FUNCTION eventstore_refuse()

CREATE TRIGGER wix_app_keys_no_revival BEFORE UPDATE ON wix_app_keys FOR EACH ROW
WHEN (OLD.retired_at IS NOT NULL AND (NEW.retired_at IS NULL OR NEW.retired_at > OLD.retired_at))
EXECUTE FUNCTION eventstore_refuse()

ALTER TABLE wix_app_keys ENABLE ALWAYS TRIGGER wix_app_keys_no_rewrite, ENABLE ALWAYS TRIGGER wix_app_keys_no_delete,
ENABLE ALWAYS TRIGGER wix_app_keys_no_truncate,
ENABLE ALWAYS TRIGGER wix_app_keys_no_revival
