-- Which frames of each session newer ones replaced before they were sent: they never arrive, and
-- together with what was seen they are all that was read.
ALTER TABLE core.session ADD COLUMN conflated int8multirange NOT NULL DEFAULT '{}';
