"""How the page looks."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --card: #f4f6f9; --line: #dfe4ea; --ink: #1c2128; --dim: #5b6572; --accent: #274c77;
  --full: #0b63a8; --partial: #e08e00; --skipped: #e9ecf0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1d2228; --line: #323942; --ink: #e4e8ec; --dim: #98a3b0; --accent: #8ab6e1;
    --full: #56b0ee; --partial: #f3a83b; --skipped: #2a3037;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 3rem 1.25rem; }
h1 { margin: 0; font-size: 2.2rem; letter-spacing: -0.02em; }
h2 { margin: 2.75rem 0 0.75rem; font-size: 1.2rem; }
h3 { margin: 1.25rem 0 0.4rem; font-size: 0.95rem; color: var(--dim); font-weight: 600; }
header p { margin: 0.4rem 0; color: var(--dim); white-space: pre-line; }
code, table { font: 13.5px/1.6 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
code i { font-style: normal; color: var(--accent); font-weight: 600; }
.figures { display: flex; flex-wrap: wrap; gap: 0.75rem; }
.figures, .maths, .legend { list-style: none; margin: 0; padding: 0; }
.figures { margin-top: 1.75rem; }
.figures li { flex: 1 1 7.5rem; background: var(--card); border-radius: 10px; padding: 0.8rem 1rem; }
.figures b { display: block; font-size: 1.55rem; line-height: 1.2; color: var(--accent); }
.figures span { color: var(--dim); font-size: 0.85rem; }
.maths { background: var(--card); border-radius: 10px; padding: 0.8rem 1rem; }
.maths li { padding-left: 2.2em; text-indent: -2.2em; overflow-wrap: break-word; }
.refused { border-left: 4px solid var(--partial); padding: 0.3rem 1rem; margin-top: 1.75rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
td, th { padding: 0.25rem 1.4rem 0.25rem 0; text-align: left; border-bottom: 1px solid var(--line); }
th { color: var(--dim); font-weight: 500; white-space: nowrap; }
td b { color: var(--accent); }
.bar { display: flex; height: 1.6rem; border-radius: 6px; overflow: hidden; border: 1px solid var(--line); }
.bar span { flex-basis: 1px; }
.legend { display: flex; flex-wrap: wrap; gap: 0.25rem 1.5rem; margin-top: 0.6rem; color: var(--dim); }
.legend span { display: inline-block; width: 0.8rem; height: 0.8rem; margin-right: 0.45rem; }
.full { background: var(--full); } .partial { background: var(--partial); }
.skipped { background: var(--skipped); }
figure { margin: 1.25rem 0 0; }
figure svg { max-width: 100%; height: auto; border-radius: 6px; }
.note, footer { color: var(--dim); font-size: 0.85rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); }
"""
