-- One database belongs to one data directory: that of the installation which created it. Written at start by the owner.
create table installation (
  is_only boolean primary key default true check (is_only),
  id text not null,
  -- Digest of the secrets, without which the keys and encrypted values of the database are worthless.
  secrets_digest bytea not null,
  -- Which copy of the data directory it is: a copied directory has another mark.
  directory_mark text not null,
  data_dir text not null,
  host text not null,
  started_at timestamptz not null
);
select isolate_table('installation');
