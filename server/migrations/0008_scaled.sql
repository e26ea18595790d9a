-- The size of an instance before a resize that is not complete, for the event instance.scaled:
-- { "plan", "vcpus", "memory_bytes", "disk_bytes" }.
alter table instances add column wanted_size_before jsonb;
