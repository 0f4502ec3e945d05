-- What the messaging proofs count with: aggregates that announce, and what became of each announcement.
CREATE TABLE thing (key text PRIMARY KEY, event_seq bigint NOT NULL DEFAULT 0);
CREATE TABLE noise (id bigint GENERATED ALWAYS AS IDENTITY);
CREATE TABLE seen (
  reader text NOT NULL, subject text NOT NULL, last_seq bigint NOT NULL DEFAULT 0, applied bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (reader, subject));
CREATE TABLE wrong (reader text NOT NULL, subject text NOT NULL, expected bigint NOT NULL, got bigint NOT NULL);
CREATE TABLE poison (subject text PRIMARY KEY, kind text NOT NULL);
CREATE TABLE checked_late (subject text NOT NULL REFERENCES thing (key) DEFERRABLE INITIALLY DEFERRED);
GRANT SELECT, INSERT, UPDATE, DELETE ON thing, noise, checked_late, seen, wrong, poison TO __RUNTIME__;
