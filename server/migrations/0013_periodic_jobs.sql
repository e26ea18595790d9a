-- What an orphan sweep found once. It removes what it finds on two sweeps in a row, whichever process does them.
create table sweep_suspects (
  sweep text not null,
  id text not null,
  primary key (sweep, id)
);
select isolate_table('sweep_suspects', engine => 'select, insert, delete');

-- Periodic jobs have keys of the kind 'job'.
delete from work where kind = 'request_log' or (kind = 'sweep' and id not like '%:%');
