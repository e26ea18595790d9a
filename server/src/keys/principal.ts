/** The authenticated key of a request and its environment. */
export type Principal = {
  key_id: string
  project_id: string
  environment_id: string
  mode: 'live' | 'test'
  scopes: string[]
  /** Addresses from which the key may be used, in canonical form; null: all. */
  allowed_addresses: string[] | null
  /** The budget that counts what the key creates; null: none. */
  budget_id: string | null
}
