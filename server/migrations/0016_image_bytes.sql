-- Bytes on the disk of the host are reserved before they are written: an image in progress reserves what its upload and its
-- import will write, an image on the host what it occupies. Images count against the quotas of their project.
alter table images add column reserved_bytes bigint not null default 0 check (reserved_bytes >= 0);
grant update (reserved_bytes) on images to cn_app;
alter table environment_heads
  add column used_images bigint not null default 0,
  add column used_image_bytes bigint not null default 0;
update environment_heads h set used_images =
  (select count(*) from images i where i.environment_id = h.environment_id and not i.wanted_gone);

-- What images in progress have reserved, those of all tenants. Some of it is written already.
create function reserved_image_bytes() returns bigint
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select coalesce(sum(i.reserved_bytes), 0)::bigint from public.images i
    where i.reserved_bytes > 0 and (i.observed_state <> 'present' or i.observed_import < i.wanted_import)
  $$;
revoke execute on function reserved_image_bytes from public;
grant execute on function reserved_image_bytes to cn_app;
