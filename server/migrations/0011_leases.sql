-- Lease numbers are unique over all keys. A row of work can be deleted and created again; with a counter per row, a
-- delayed holder of an old lease could pass for the holder of the new one.
create sequence work_leases;
select setval('work_leases', (select coalesce(max(lease), 0) + 1 from work));
grant usage on sequence work_leases to cn_engine;
