-- Wakes are written by the last statement of a transaction, after the lock of its environment, sorted by key. So all
-- transactions lock in one order: resource rows, then the environment's row, then work rows.

-- Makes keys due, and counts the wake. The only statement that does so; `engine/work.ts` says what a wake means. It runs
-- as the owner, because an image or a region wakes instances of several tenants. A wake carries no data.
create function wake_keys(kinds text[], ids text[], environment_ids text[]) returns void
  language sql security definer set search_path = pg_catalog, pg_temp
  as $$
    insert into public.work as w (kind, id, environment_id, due_at)
    select k.kind, k.id, k.environment_id, public.environment_now(k.environment_id)
    from (select distinct * from unnest(kinds, ids, environment_ids) as k(kind, id, environment_id)) k
    order by k.kind, k.id
    on conflict (kind, id) do update set
      due_at = least(w.due_at, excluded.due_at), not_before = '-infinity', wakes = w.wakes + 1
  $$;

-- Wakes keys, and checks that a claim is still the newest one of its key, in the order of all these keys. Raises CN002
-- when another claim has followed; then nothing of the transaction is written.
create function flush_work(
  kinds text[], ids text[], environment_ids text[], leased_kind text, leased_id text, expected_lease bigint
) returns integer language plpgsql
  as $$
begin
  if leased_kind is not null then
    perform wake_keys(array_agg(k.kind), array_agg(k.id), array_agg(k.environment_id))
    from unnest(kinds, ids, environment_ids) as k(kind, id, environment_id)
    where (k.kind, k.id) < (leased_kind, leased_id);
    perform from work w where w.kind = leased_kind and w.id = leased_id and w.lease = expected_lease
    for no key update;
    if not found then
      raise exception using errcode = 'CN002', message = format('the lease of %s %s was lost', leased_kind, leased_id);
    end if;
  end if;
  perform wake_keys(array_agg(k.kind), array_agg(k.id), array_agg(k.environment_id))
  from unnest(kinds, ids, environment_ids) as k(kind, id, environment_id)
  where leased_kind is null or (k.kind, k.id) >= (leased_kind, leased_id);
  return 1;
end $$;

-- Queues the deliveries of a transaction's events, and returns the webhooks that are to be woken. It reads what was
-- committed before the environment was locked, so no event that follows the creation of a webhook is missed. The ID of a
-- first delivery is derived from event and webhook, so it is unique. A ping is delivered only to its own webhook.
drop function queue_deliveries(text, text[], bigint[], text[], text[], timestamptz);
create function queue_deliveries(
  in_environment text, event_ids text[], sequences bigint[], types text[], resource_ids text[], at timestamptz
) returns text[] language sql volatile
  as $$
    with queued as (
      insert into webhook_deliveries
        (environment_id, id, webhook_id, event_id, event_sequence, event_type, cause, due_at, created_at)
      select w.environment_id, 'dlv_' || left(encode(sha256(convert_to(e.id || w.id, 'UTF8')), 'hex'), 20), w.id,
        e.id, e.sequence, e.type, case when e.type = 'webhook.ping' then 'ping' else 'event' end, at, at
      from unnest(event_ids, sequences, types, resource_ids) as e(id, sequence, type, resource_id)
        join webhooks w on case when e.type = 'webhook.ping' then w.id = e.resource_id
          else w.events && array['*', split_part(e.type, '.', 1) || '.*', e.type] end
      where w.environment_id = in_environment and w.wanted_enabled and not w.wanted_gone
        and w.observed_disabled_reason is null
      order by e.sequence
      returning webhook_id
    )
    select coalesce(array_agg(distinct webhook_id), '{}') from queued
  $$;

-- The instances of all tenants that wait for this image.
drop function wake_instances_waiting_for(text);
create function instances_waiting_for_image(awaited_image_id text) returns table (id text, environment_id text)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select i.id, i.environment_id from public.instances i
    where i.image_id = awaited_image_id and i.status = 'provisioning'
  $$;

-- The instances that wait for a recovery slot beside this instance of the caller's environment.
drop function wake_instances_waiting_to_recover(text);
create function instances_waiting_to_recover(of_instance text) returns table (id text, environment_id text)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select i.id, i.environment_id
    from public.instances mine join public.instances i on i.region = mine.region and i.mode = mine.mode and i.id <> mine.id
    where mine.id = of_instance and mine.environment_id = public.current_environment_id()
      and (i.mode = 'live' or i.environment_id = mine.environment_id)
      and i.status <> 'terminated' and i.observed_recovering and i.recovery ->> 'cause' = 'host_rebooted'
      and i.recovery ->> 'outcome' is null and i.recovery ->> 'attempts' = '0'
  $$;

-- Requests the import of a catalogue image, unless it is on this host or being imported. Returns whether it did, so that
-- the caller wakes the image's reconciler.
drop function import_catalogue_image(text);
create function import_catalogue_image(image_id text) returns boolean
  language plpgsql security definer set search_path = pg_catalog, pg_temp
  as $$
begin
  update public.images i set wanted_import = i.wanted_import + 1
  where i.id = image_id and i.environment_id is null and i.observed_state in ('absent', 'failed')
    and i.observed_import = i.wanted_import;
  return found;
end $$;

revoke execute on function wake_keys, instances_waiting_for_image, instances_waiting_to_recover, import_catalogue_image
  from public;
grant execute on function wake_keys to cn_app, cn_engine;
grant execute on function instances_waiting_for_image, instances_waiting_to_recover, import_catalogue_image to cn_app;
