/** Secrets that are never in the database: generated at the first start, in a file that only the operator can read. */
export type Secrets = {
  /** Keys are stored as HMAC-SHA-256 with this pepper. */
  pepper: Uint8Array
  /** Signs page cursors. */
  cursor_key: Uint8Array
  /** Seals user data (AES-256-GCM). */
  seal_key: Uint8Array
  /** Derives the passwords of the database's login roles. */
  database_key: Uint8Array
}
