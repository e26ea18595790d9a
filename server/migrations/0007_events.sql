-- json, not jsonb: it keeps the text as it was written, so an event has the same bytes in every response and delivery.
alter table events alter column data type json using data::json;
create index events_type on events (environment_id, type, sequence);

-- The engine deletes events after their retention; see events/.
grant select (environment_id, sequence, created_at), delete on events to cn_engine;
