-- The buckets of the rate limits, shared by all API processes. Unlogged: after a crash of the server they are full again,
-- which costs less than writing WAL for each decision. rate-limits/gcra.ts explains the columns and proves the bound; the
-- function below is its `exchange` in SQL, and a test compares them. One statement serves the buckets of several tenants.
create unlogged table rate_limits (
  bucket text primary key,
  environment_id text not null,
  -- When the bucket is full, in seconds since 1970 by the database's clock: the theoretical arrival time.
  tat double precision not null,
  -- Tokens lent in the second `lent_slot` and in the one before it, which processes may not have spent yet.
  lent_slot bigint not null,
  lent integer not null,
  lent_before integer not null
) with (fillfactor = 50);

-- Serves several buckets, each under its row's lock, in the given order. Callers sort by bucket, so that two of them
-- cannot deadlock. `at` is the database's clock; only tests set it.
create function exchange_rate_limits(asked jsonb, at double precision default null)
  returns table (bucket text, sold integer, lent integer, slot bigint, available double precision)
  language plpgsql
  as $$
declare
  ask record;
  state rate_limits;
  now_s double precision;
  held integer;
  free integer;
begin
  for ask in
    select * from jsonb_to_recordset(asked) as (bucket text, environment_id text, rate double precision, burst integer,
      need integer, extra integer, returned integer, ended_slot bigint, ended_size integer)
  loop
    select * into state from rate_limits r where r.bucket = ask.bucket for update;
    if not found then
      insert into rate_limits values (ask.bucket, ask.environment_id, '-infinity', 0, 0, 0) on conflict do nothing;
      select * into state from rate_limits r where r.bucket = ask.bucket for update;
    end if;
    -- Read after the lock, because the previous holder may have been served just before.
    now_s := coalesce(at, extract(epoch from clock_timestamp()));
    slot := floor(now_s);

    -- The clock was set back: the bucket stays as full as it was.
    if slot < state.lent_slot then
      state.tat := state.tat - (state.lent_slot - now_s);
    end if;
    -- Tokens that are lent count as still in the bucket: it is not refilled beyond its size.
    state.tat := least(
      greatest(
        state.tat,
        least(now_s, state.lent_slot + 1) + (state.lent + state.lent_before) / ask.rate,
        least(now_s, state.lent_slot + 2) + state.lent / ask.rate,
        now_s),
      now_s + (ask.burst + 1e-4) / ask.rate);
    if slot <> state.lent_slot then
      state.lent_before := case
        when slot = state.lent_slot + 1 then state.lent
        when slot < state.lent_slot then state.lent + state.lent_before
        else 0 end;
      state.lent := 0;
    end if;
    if ask.ended_slot = slot then
      state.lent := greatest(0, state.lent - ask.ended_size);
    elsif ask.ended_slot = slot - 1 then
      state.lent_before := greatest(0, state.lent_before - ask.ended_size);
    end if;
    held := state.lent + state.lent_before;
    state.tat := greatest(state.tat - ask.returned / ask.rate, now_s + held / ask.rate);

    available := ask.burst - (state.tat - now_s) * ask.rate;
    free := floor(available + 1e-4);
    sold := greatest(0, least(ask.need, free));
    lent := greatest(0, least(ask.extra, floor(ask.burst / 20.0)::integer - held, (free - sold) / 20));
    available := available - sold - lent;
    update rate_limits r
      set tat = state.tat + (sold + exchange_rate_limits.lent) / ask.rate, lent_slot = slot,
          lent = state.lent + exchange_rate_limits.lent, lent_before = state.lent_before
      where r.bucket = ask.bucket;
    bucket := ask.bucket;
    return next;
  end loop;
end $$;

select isolate_table('rate_limits', engine => 'select, insert, update, delete');
revoke execute on function exchange_rate_limits from public;
grant execute on function exchange_rate_limits to cn_engine;
