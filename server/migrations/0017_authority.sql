-- Ends a write whose key has been revoked, has expired or was changed since its request was authenticated. It is called in
-- the last statement of the transaction, so that nothing is committed after the key has ended. A transaction that changes
-- its own key passes.
create function check_authority(caller_id text, granted text[], addresses text[]) returns void language plpgsql as $$
begin
  if not exists (
    select from api_keys k where k.id = caller_id and (
      k.xmin = pg_current_xact_id()::xid
      or (coalesce(least(k.expires_at, k.retires_at, k.revoked_at), 'infinity') > clock_timestamp()
        and k.scopes = granted and k.allowed_addresses is not distinct from addresses))
  ) then
    raise exception using errcode = 'CN003', message = 'the key of the request has ended or has changed';
  end if;
end $$;

-- The imports that run besides that of an image: of all tenants, and of the project of this environment.
create function running_imports(except_id text, out host integer, out project integer)
  language sql stable security definer set search_path = pg_catalog, pg_temp
  as $$
    select count(*)::integer, count(*) filter (where e.project_id = own.project_id)::integer
    from public.images i left join public.environments e on e.id = i.environment_id
      left join public.environments own on own.id = public.current_environment_id()
    where i.id <> except_id and i.observed_state = 'importing' and i.observed_import = i.wanted_import
      and not i.wanted_gone
  $$;
revoke execute on function running_imports from public;
grant execute on function running_imports to cn_app;
