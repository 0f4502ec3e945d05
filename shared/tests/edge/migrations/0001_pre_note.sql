CREATE TABLE note (
  note_id     uuid   PRIMARY KEY,
  merchant_id uuid   NOT NULL,
  title       text   NOT NULL,
  amount      bigint NOT NULL,
  currency    text   NOT NULL
);
GRANT SELECT, INSERT ON note TO __RUNTIME__;
