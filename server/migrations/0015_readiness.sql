-- One row that the readiness probe writes at most once a second: a database that only reads is not ready.
create table readiness (
  is_only boolean primary key default true check (is_only),
  checked_at timestamptz not null
);
select isolate_table('readiness', engine => 'select, insert, update');
