-- former: the process that had a message before, until it has handed over what it had not kept.
ALTER TABLE growing ADD COLUMN former TEXT;
