"""How the HTML report looks: system fonts, numbers in columns, light or dark as the reader's system is."""

STYLE = """\
:root {
  --page: #ffffff; --ink: #1d2330; --soft: #5a6475; --line: #dfe3ea; --panel: #f5f7fa;
  --link: #1f5fbf; --right: #1c7c3c; --wrong: #b3261e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171d; --ink: #e3e7ee; --soft: #9aa5b5; --line: #303744; --panel: #1d222b;
    --link: #82b1ff; --right: #6bd08a; --wrong: #ff8a80;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 82rem; margin: 0 auto; padding: 1.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0.5rem 0 0.75rem; }
h2 { font-size: 1.4rem; margin: 2.5rem 0 0.75rem; padding-bottom: 0.25rem; }
h2 { border-bottom: 1px solid var(--line); }
h3 { font-size: 1.1rem; margin: 1.75rem 0 0.5rem; }
h4 { font-size: 1rem; margin: 1.25rem 0 0.5rem; }
p { max-width: 48rem; margin: 0.5rem 0; }
a { color: var(--link); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.25rem 1.25rem; list-style: none; padding: 0; }
.note { color: var(--soft); font-size: 0.875rem; max-width: 64rem; }
.wide { overflow-x: auto; margin: 0.75rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.35rem 0.6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
th { text-align: left; font-weight: 600; color: var(--soft); vertical-align: bottom; }
th.number, td.number { text-align: right; }
td.number { white-space: nowrap; }
td:not(.number) { min-width: 7rem; }
tbody tr:hover { background: var(--panel); }
pre {
  background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: 0.75rem 1rem;
  overflow-x: auto; font: 0.85rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace;
}
details > summary { cursor: pointer; }
summary h2, summary h3, summary h4 { display: inline-block; border: 0; margin-right: 0.5rem; }
img { max-width: 100%; height: auto; border-radius: 6px; }
.figure { max-width: none; }
.figure img { background: #ffffff; }
.gallery {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(15.5rem, 1fr)); gap: 1rem;
  margin: 0.75rem 0 1.25rem;
}
.gallery figure {
  margin: 0; padding: 0.75rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: 8px;
}
.gallery img { display: block; margin: 0 auto; }
audio { width: 100%; }
figcaption { font-size: 0.875rem; margin-top: 0.5rem; overflow-wrap: anywhere; }
figcaption b { color: var(--soft); font-weight: 600; }
.right { color: var(--right); font-weight: 600; }
.wrong { color: var(--wrong); font-weight: 600; }
@media print { nav { display: none; } .gallery figure { break-inside: avoid; } }
"""
