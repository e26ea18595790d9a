-- The numbers of claims, over all keys. A key's row may go and come again: counted by itself it would begin with numbers
-- that a claim of the old row has, and who was held up since then would be taken for who holds the key now.
create sequence work_leases;
select setval('work_leases', (select coalesce(max(lease), 0) + 1 from work));
grant usage on sequence work_leases to cn_engine;
