# Converts the commands of `runcmd` in a #cloud-config to shell. As in cloud-init, a string is a line of shell, and a list is
# a command with quoted arguments. Supports a subset of YAML: block and flow lists, plain, quoted and block scalars. Anything
# else exits with code 1, so that no partial list of commands runs.

{ sub(/\r$/, ""); line[NR] = $0 }

END {
  for (at = 1; at <= NR; at++) {
    if (line[at] !~ /^[A-Za-z_][A-Za-z0-9_-]*[ \t]*:/) continue
    key = line[at]; sub(/[ \t]*:.*/, "", key)
    if (key == "runcmd") { rest = line[at]; sub(/^[^:]*:[ \t]*/, "", rest); runcmd(rest) }
    else print "user data: micro-linux ignores `" key "` (only runcmd is supported)" > "/dev/stderr"
  }
}

# Converts the value of runcmd, which starts after the colon of line `at`; sets `at` to its last line.
function runcmd(rest,    dash, first) {
  if (rest ~ /^\[/) { text = flow_text(rest); flow_list(1); return }
  if (rest !~ /^(#.*)?$/) fail("a list is expected")
  first = -1
  while (next_line()) {
    if (line[at + 1] !~ /^ *-( |$)/) { if (indent(line[at + 1]) == 0) return; at++; fail("a list item is expected") }
    dash = indent(line[at + 1])
    if (first < 0) first = dash
    if (dash != first) { at++; fail("the indentation is not that of the list") }
    at++
    item(substr(line[at], dash + 2), dash)
  }
}

# Whether another line has content. Skips comments and empty lines before it.
function next_line() {
  while (at < NR && line[at + 1] ~ /^[ \t]*(#.*)?$/) at++
  return at < NR
}

# Converts an item of runcmd: the text after its dash, which is in column `dash`.
function item(rest, dash,    words, inner) {
  inner = dash + 1
  if (rest ~ /^ *(#.*)?$/ || rest ~ /^ *-( |$)/) {
    if (rest ~ /^ *-/) { inner += indent(rest); words = quote(scalar(substr(rest, indent(rest) + 2), inner)) }
    else { if (!next_line()) return; inner = indent(line[at + 1]); if (inner <= dash) return }
    while (next_line() && indent(line[at + 1]) == inner && line[at + 1] ~ /^ *-( |$)/) {
      at++
      words = words (words == "" ? "" : " ") quote(scalar(substr(line[at], inner + 2), inner))
    }
    print words
    return
  }
  sub(/^ +/, "", rest)
  if (rest ~ /^\[/) { text = flow_text(rest); print flow_words(1); return }
  print scalar(rest, dash)
}

# A string in a block list, whose dash is in column `dash`; it may continue on more deeply indented lines.
function scalar(rest, dash,    value) {
  sub(/^ +/, "", rest)
  if (rest ~ /^[|>][-+]?[ \t]*(#.*)?$/) return block_scalar(substr(rest, 1, 1), dash)
  if (rest ~ /^[&*!%@`{|>]/) fail("this kind of YAML value is not supported")
  while (next_line() && indent(line[at + 1]) > dash) {
    at++
    value = line[at]; sub(/^ +/, "", value)
    rest = rest " " value
  }
  if (rest ~ /^["']/) {
    value = quoted(rest, 1)
    if (substr(rest, end) !~ /^[ \t]*(#.*)?$/) fail("text after a closing quote")
    return value
  }
  sub(/[ \t]+#.*$/, "", rest); sub(/[ \t]+$/, "", rest)
  if (rest ~ /:([ \t]|$)/) fail("a string with a colon and a space must be quoted")
  return rest
}

function block_scalar(style, dash,    depth, value, joint) {
  depth = -1
  while (at < NR && (line[at + 1] ~ /^ *$/ || indent(line[at + 1]) > dash)) {
    at++
    if (depth < 0) { if (line[at] ~ /^ *$/) continue; depth = indent(line[at]) }
    value = value joint substr(line[at], depth + 1)
    joint = style == ">" ? " " : "\n"
  }
  sub(/[ \n]+$/, "", value)
  return value
}

# The text of a flow list that starts in `rest` and may continue on further lines.
function flow_text(rest) {
  while (!balanced(rest)) { if (at >= NR) fail("a list is not closed"); at++; rest = rest " " line[at] }
  return rest
}

function balanced(s,    i, c, depth, inside) {
  for (i = 1; i <= length(s); i++) {
    c = substr(s, i, 1)
    if (inside == "\"" && c == "\\") i++
    else if (inside != "") { if (c == inside) inside = "" }
    else if (c ~ /["']/ && substr(s, 1, i - 1) ~ /[[,][ \t]*$/) inside = c
    else if (c == "[") depth++
    else if (c == "]" && --depth == 0) return 1
  }
  return 0
}

# `runcmd: [...]`: each element is a command; the list starts at character `i` of `text`.
function flow_list(i) {
  i = skip(i + 1)
  while (substr(text, i, 1) != "]") {
    if (substr(text, i, 1) == "[") { print flow_words(i) } else print flow_scalar(i)
    i = separator(end)
  }
}

# The quoted words of a command in a flow list. Sets `end` to the position after the closing bracket.
function flow_words(i,    words) {
  i = skip(i + 1)
  while (substr(text, i, 1) != "]") {
    words = words (words == "" ? "" : " ") quote(flow_scalar(i))
    i = separator(end)
  }
  end = i + 1
  return words
}

function flow_scalar(i,    value) {
  if (substr(text, i, 1) ~ /["']/) return quoted(text, i)
  if (substr(text, i, 1) ~ /[[{&*!%@`]/) fail("this kind of YAML value is not supported in a list")
  value = substr(text, i)
  if (!match(value, /[],]/)) fail("a list is not closed")
  end = i + RSTART - 1
  value = substr(value, 1, RSTART - 1)
  sub(/[ \t]+$/, "", value)
  return value
}

function separator(i) {
  i = skip(i)
  if (substr(text, i, 1) == ",") return skip(i + 1)
  if (substr(text, i, 1) != "]") fail("a comma or ] is expected")
  return i
}

function skip(i) { while (substr(text, i, 1) ~ /[ \t]/) i++; return i }

# The string whose opening quote is character `i` of `s`. Sets `end` to the position after its closing quote.
function quoted(s, i,    mark, c, value) {
  mark = substr(s, i, 1)
  for (i++; i <= length(s); i++) {
    c = substr(s, i, 1)
    if (mark == "'" && c == "'" && substr(s, i + 1, 1) == "'") { value = value "'"; i++ }
    else if (c == mark) { end = i + 1; return value }
    else if (mark == "\"" && c == "\\") value = value escape(substr(s, ++i, 1))
    else value = value c
  }
  fail("a quote is not closed")
}

function escape(c) {
  if (c == "n") return "\n"
  if (c == "t") return "\t"
  if (c ~ /["\\\/ ]/) return c
  fail("the escape \\" c " is not supported")
}

function quote(word) { gsub(/'/, "'\\''", word); return "'" word "'" }

function indent(s) { match(s, /^ */); return RLENGTH }

function fail(why) {
  print "user data: line " at ": " why > "/dev/stderr"
  exit 1
}
