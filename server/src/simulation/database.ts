/**
 * A database with simulated time, and with witnesses that are independent of the control plane.
 *
 * Time: a schema before pg_catalog in the search path has its own `now()`, so every statement of the product uses simulated
 * time without a change.
 *
 * Witnesses: triggers record each change of an instance and each event with the number of their transaction, so a missing event
 * is found.
 */
import { connect, type Query, type Sql } from '../db/database.ts'
import { createTestDatabase } from '../db/testing.ts'
import type { RowImage } from '../testing/expected-events.ts'

/**
 * A change that a trigger recorded. `event`: `is` is its type. `webhook`: `is` is `open` if it receives events, else `closed`, and
 * `was` is its URL.
 */
export type Witness = {
  what: 'instance' | 'event' | 'webhook'
  xid: string
  environment_id: string
  resource_id: string
  was: string | null
  is: string
  version: number | null
  /** Of an instance: its row before (null: it is new) and after the change. */
  before: (RowImage & { version: number }) | null
  after: (RowImage & { version: number }) | null
  /** Of an event: its ID, its number and the webhooks that must receive it. */
  event_id: string | null
  sequence: number | null
  webhooks: string[] | null
}

const PREPARATION = `
  create schema simulated;
  grant usage on schema simulated to public;
  create sequence simulated.milliseconds;
  grant select on sequence simulated.milliseconds to public;
  create function simulated.now() returns timestamptz language sql stable
    as 'select to_timestamp(last_value / 1000.0) from simulated.milliseconds';
  create function simulated.clock_timestamp() returns timestamptz language sql stable as 'select simulated.now()';
  -- The driver computes the effect of time when it reads a machine; the row does not show it.
  create function simulated.is_on(machine jsonb, at timestamptz) returns boolean language sql immutable as $$
    select coalesce(machine ->> 'power' = 'paused' or (machine ->> 'power' = 'running'
      and coalesce((machine ->> 'off_at')::timestamptz > at, true)
      and (coalesce((machine ->> 'crash_at')::timestamptz > at, true)
        or machine ->> 'crash_as' not in ('crash', 'host_reboot'))), false) $$;

  create unlogged table simulated.witnesses (
    number bigint generated always as identity, xid xid8 default pg_current_xact_id(), what text, environment_id text,
    resource_id text, was text, "is" text, version integer, before jsonb, after jsonb,
    event_id text, sequence bigint, webhooks text[]);
  create function simulated.record_instance() returns trigger language plpgsql security definer as $$
    begin
      if tg_op = 'UPDATE' and old.status = new.status and old.version = new.version then return null; end if;
      insert into simulated.witnesses (what, environment_id, resource_id, "is", before, after)
      values ('instance', new.environment_id, new.id, new.status, to_jsonb(old), to_jsonb(new));
      return null;
    end $$;
  create trigger recorded after insert or update on instances for each row execute function simulated.record_instance();
  create function simulated.record_event() returns trigger language plpgsql security definer as $$
    begin
      insert into simulated.witnesses (what, environment_id, resource_id, "is", version, event_id, sequence, webhooks)
      values ('event', new.environment_id, new.resource_id, new.type, (new.data #>> '{object,version}')::integer, new.id,
        new.sequence, case when new.type <> 'webhook.ping' then (
          select array_agg(w.id) from public.webhooks w where w.environment_id = new.environment_id
            and w.wanted_enabled and not w.wanted_gone and w.observed_disabled_reason is null
            and exists (select from unnest(w.events) as wanted where new.type like replace(wanted, '*', '%'))) end);
      return null;
    end $$;
  create trigger recorded after insert on events for each row execute function simulated.record_event();
  create function simulated.record_webhook() returns trigger language plpgsql security definer as $$
    begin
      insert into simulated.witnesses (what, environment_id, resource_id, was, "is")
      values ('webhook', coalesce(new.environment_id, old.environment_id), coalesce(new.id, old.id),
        coalesce(new.url, old.url), case when new.wanted_enabled and not new.wanted_gone
          and new.observed_disabled_reason is null then 'open' else 'closed' end);
      return null;
    end $$;
  create trigger recorded after insert or update or delete on webhooks
    for each row execute function simulated.record_webhook();

  do $$ declare found record; begin
    for found in select d.adrelid::regclass as relation, a.attname as name, pg_get_expr(d.adbin, d.adrelid) as value
      from pg_attrdef d join pg_attribute a on a.attrelid = d.adrelid and a.attnum = d.adnum
      where pg_get_expr(d.adbin, d.adrelid) in ('now()', 'clock_timestamp()')
        and d.adrelid in (select oid from pg_class where relnamespace = 'public'::regnamespace)
    loop
      execute format('alter table %s alter %I set default simulated.%s', found.relation, found.name, found.value);
    end loop;
    for found in select oid::regprocedure as signature from pg_proc
      where pronamespace = 'public'::regnamespace and proconfig is not null
    loop
      execute format('alter function %s set search_path = simulated, pg_catalog, pg_temp', found.signature);
    end loop;
    -- Autovacuum would move rows, and with them the order of rows that sort equal.
    for found in select oid::regclass as relation from pg_class
      where relnamespace = 'public'::regnamespace and relkind = 'r'
    loop
      execute format('alter table %s set (autovacuum_enabled = false)', found.relation);
    end loop;
  end $$`

export type SimulatedDatabase = {
  /** One connection of each role. */
  sql: Sql
  owner: Sql
  /** Empties all tables. */
  clear(): Promise<void>
  /** The changes since the last call. */
  witnesses(): Promise<Witness[]>
}

export async function openDatabase(): Promise<SimulatedDatabase> {
  const { url, sql, owner } = await createTestDatabase({ max: 1, search_path: 'simulated, pg_catalog, public' })
  const setup = connect({ url, max: 1, name: 'simulation' })
  await setup.unsafe(PREPARATION)
  const clearing = await statementsToClear(setup)
  await setup.end()
  return {
    sql,
    owner,
    async clear() {
      await owner.unsafe(clearing)
    },
    async witnesses() {
      const recorded = await owner<
        (Witness & { number: number })[]
      >`delete from simulated.witnesses returning *, xid::text`
      return recorded.sort((a, b) => a.number - b.number)
    },
  }
}

/** Triggers are off: those of some tables reject the truncation. */
async function statementsToClear(setup: Query): Promise<string> {
  const tables = await setup<{ name: string }[]>`
    select oid::regclass::text as name from pg_class
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') and relname <> 'migrations'
      and not relispartition order by name`
  const sequences = await setup<{ name: string }[]>`
    select oid::regclass::text as name from pg_class
    where relnamespace in ('public'::regnamespace, 'simulated'::regnamespace) and relkind = 'S'
      and relname <> 'milliseconds' order by name`
  return `
    set session_replication_role = replica;
    truncate ${tables.map(({ name }) => name).join(', ')}, simulated.witnesses;
    set session_replication_role = origin;
    ${sequences.map(({ name }) => `alter sequence ${name} restart`).join(';')}`
}
