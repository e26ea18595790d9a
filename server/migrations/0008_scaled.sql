-- The size that an instance had before its last change of plan, so that instance.scaled can say it when the change is done:
-- { "plan", "vcpus", "memory_bytes", "disk_bytes" }.
alter table instances add column wanted_size_before jsonb;
