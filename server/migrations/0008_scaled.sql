-- The size that an instance had before a change of plan that has not come to its end, so that instance.scaled can say it then:
-- { "plan", "vcpus", "memory_bytes", "disk_bytes" }.
alter table instances add column wanted_size_before jsonb;
