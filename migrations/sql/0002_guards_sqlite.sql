-- A signature can be checked years later only with the key that was valid then: keys are retired, never deleted or changed.

CREATE TRIGGER wix_app_keys_no_rewrite BEFORE UPDATE ON wix_app_keys
WHEN (NEW.id, NEW.app_id, NEW.key_id, NEW.public_key, NEW.added_at)
IS NOT (OLD.id, OLD.app_id, OLD.key_id, OLD.public_key, OLD.added_at)
BEGIN SELECT RAISE(ABORT, 'wix_app_keys keeps its keys: UPDATE refused'); END

CREATE TRIGGER wix_app_keys_no_delete BEFORE DELETE ON wix_app_keys
BEGIN SELECT RAISE(ABORT, 'wix_app_keys keeps its keys: DELETE refused'); END

CREATE TRIGGER wix_app_keys_no_replace BEFORE INSERT ON wix_app_keys
WHEN EXISTS (SELECT 1 FROM wix_app_keys k WHERE k.id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'wix_app_keys keeps its keys: the id is taken'); END

CREATE TRIGGER wix_app_keys_no_revival BEFORE UPDATE ON wix_app_keys
WHEN OLD.retired_at IS NOT NULL AND (NEW.retired_at IS NULL OR NEW.retired_at > OLD.retired_at)
BEGIN SELECT RAISE(ABORT, 'wix_app_keys keeps its keys: a retired key stays retired'); END
