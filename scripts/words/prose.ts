/**
 * The prose of a source file: its comments and string literals. Everything else is replaced character by character, so
 * that positions stay what they are in the file.
 */

/** Stands for a character of code. It is no white space: two literals beside each other are two sentences. */
const CODE = '\0'

/** One alternative for each token that begins with a delimiter, in this order. */
const SCRIPT = [
  /\/\*[\s\S]*?\*\/|(?<!\\)\/\/.*/, // comments
  /'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"/, // strings
  /`/, // a template, whose end depends on what is in it
  /(?<=[(,=:[!&|?{};>]\s*|\breturn\s+|^\s*)\/(?![*/])(?:\\.|\[(?:\\.|[^\]\\\n])*\]|[^/\\[\n])+\/[a-z]*/, // regular expressions
]
const SHELL = [/(?<=^|\s)#.*/, /'[^']*'|"(?:\\.|[^"\\])*"/]
const SQL = [/\/\*[\s\S]*?\*\/|--.*/, /'(?:''|[^'])*'/]
const MARKUP = [/<!--[\s\S]*?-->|(?<=>)[^<>]+(?=<)|"[^"]*"/]

/** The text of a file with its code blanked; Markdown is prose as a whole. */
export function proseOf(path: string, text: string): string {
  if (/\.(ts|mjs|js)$/.test(path)) return scriptProse(text)
  if (/\.(sql)$/.test(path)) return keep(text, SQL)
  if (/\.(html|css)$/.test(path)) return keep(text, MARKUP)
  if (/\.(md|json)$/.test(path)) return text
  return keep(text, SHELL)
}

/** A template literal is prose except for what stands in its `${…}`, which is a script again. */
function scriptProse(text: string): string {
  const token = new RegExp(SCRIPT.map((each) => `(${each.source})`).join('|'), 'gm')
  let prose = ''
  let at = 0
  for (let found = token.exec(text); found !== null; found = token.exec(text)) {
    prose += blank(text.slice(at, found.index))
    const [match, comment, string, template] = found
    at = found.index + match.length
    if (template) {
      const read = templateProse(text, found.index)
      prose += read.prose
      at = read.end
      token.lastIndex = at
    } else prose += comment || string ? undecorated(match) : blank(match)
  }
  return prose + blank(text.slice(at))
}

function templateProse(text: string, begin: number): { prose: string; end: number } {
  let prose = CODE
  let at = begin + 1
  while (at < text.length && text[at] !== '`') {
    if (text[at] === '\\') {
      prose += text.slice(at, at + 2)
      at += 2
    } else if (text.startsWith('${', at)) {
      const end = endOfExpression(text, at + 2)
      prose += blank('${') + scriptProse(text.slice(at + 2, end)) + CODE
      at = end + 1
    } else prose += text[at++]
  }
  return { prose: prose + CODE, end: at + 1 }
}

/** The position of the brace that closes `${`. */
function endOfExpression(text: string, begin: number): number {
  let depth = 0
  for (let at = begin; at < text.length; at++) {
    const rest = text.slice(at)
    const string = rest.match(/^(?:'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"|\/\*[\s\S]*?\*\/)/)
    if (string) at += string[0].length - 1
    else if (text[at] === '`') at = templateProse(text, at).end - 1
    else if (text[at] === '{') depth += 1
    else if (text[at] === '}' && depth-- === 0) return at
  }
  return text.length
}

function keep(text: string, tokens: RegExp[]): string {
  const token = new RegExp(tokens.map((each) => each.source).join('|'), 'gm')
  let prose = ''
  let at = 0
  for (const found of text.matchAll(token)) {
    prose += blank(text.slice(at, found.index)) + undecorated(found[0])
    at = found.index + found[0].length
  }
  return prose + blank(text.slice(at))
}

function blank(code: string): string {
  return code.replace(/\S/g, CODE)
}

/** A phrase may go over two lines: comment markers at the beginning of a line and escaped line breaks become spaces. */
function undecorated(text: string): string {
  return text.replace(/^\s*(\/\*+|\*+\/|\*+|\/\/+|--+|#+)|\\[nrt]/gm, (mark) => mark.replace(/\S/g, ' '))
}
