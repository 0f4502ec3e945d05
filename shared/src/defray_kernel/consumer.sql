-- name: end_frozen_transactions
SELECT set_config('idle_in_transaction_session_timeout', '10s', false)
