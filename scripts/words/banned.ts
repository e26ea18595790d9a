/** Words that the project's texts do not use, each with what to write instead (see docs/glossary.md). */

export type BannedWord = { pattern: RegExp; instead: string }

/** Spaces match any white space, also the line breaks of a paragraph. */
export const BANNED_WORDS: BannedWord[] = [
  word('wish(es|ed|ing)?', 'desired state, desired change'),
  word('look(s|ed|ing)?(?! up\\b)', 'observe, reconcile pass, read, check'),
  word('tell(s|ing)?|told|untold', 'emit, record, publish, return, report'),
  word('rehears\\w*', 'dry run'),
  word("strangers?('s)?", 'other tenant'),
  word('such things?', 'not found'),
  word('sent home', 'rejected, closed'),
  word('let(s|ting)? go', 'release'),
  word('bells?', 'wake signal'),
  word('lanes?', 'connection slot'),
  word('for good', 'permanently'),
  word('com(e|es|ing) to rest', 'drain, settle'),
  word('who (is|asks)', 'the noun: a client that …, the principal'),
  word("somebody('s)?|nobody('s)?|whoever('s)?", 'the noun: a client, another process, no tenant'),
  word('patience', 'retry, deadline, timeout'),
  word('mishaps?', 'fault'),
  word('amidst', 'during'),
  word('has the place', 'holds a worker slot'),
  word('gets its wall', 'enables row-level security'),
  word('goes its way', 'continues'),
  word('word for word', 'unchanged, verbatim'),
  word('its turn|takes? turns', 'recovery slot, in order'),
]

function word(source: string, instead: string): BannedWord {
  return { pattern: new RegExp(`\\b(${source.replaceAll(' ', '\\s+')})(?!\\w)`, 'gi'), instead }
}
