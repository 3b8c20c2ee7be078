"""The style sheet of the page: light and dark, on a phone and on paper."""

STYLE = """
:root { color-scheme: light dark; --paper: #fbfbf9; --card: #fff; --ink: #1c2024; --quiet: #626a73; --line: #e2e3df;
  --blue: #2f6fb3; --soft: #cfe0f2; --grey: #a9b2bb; --warn: #c2591d; --warn-soft: #fdf0e6; --green: #2b8a6b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181b; --card: #1d2125; --ink: #e6e8ea; --quiet: #98a1aa;
  --line: #30363c; --blue: #6ba6e6; --soft: #27435f; --grey: #6b7681; --warn: #ee9355; --warn-soft: #35271c;
  --green: #56bd99; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto,
  "Helvetica Neue", sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 4px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 4px; }
h3 { font-size: 15px; margin: 0; overflow-wrap: anywhere; }
p { margin: 4px 0 12px; max-width: 74ch; }
.quiet, figcaption, caption, dt { color: var(--quiet); }
.quiet { font-size: 14px; }
nav { margin: 14px 0 0; font-size: 14px; }
nav a { margin-right: 16px; }
a { color: var(--blue); }
code { font: 13px/1.45 ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.numbers, .cards { display: grid; gap: 12px; margin: 14px 0; }
.numbers { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); }
.cards { grid-template-columns: repeat(auto-fill, minmax(min(218px, 100%), 1fr)); }
.card, .step, .number { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px;
  min-width: 0; }
.number b { display: block; font-size: 23px; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.number span { color: var(--quiet); font-size: 13px; }
.head { display: flex; justify-content: space-between; gap: 8px; align-items: baseline; margin-bottom: 8px; }
.kind { color: var(--quiet); font-size: 12px; white-space: nowrap; }
figure { margin: 0; }
figcaption { display: flex; justify-content: space-between; gap: 10px; font-size: 12px; overflow-wrap: anywhere; }
svg { display: block; width: 100%; }
svg.plot { height: auto; }
svg.meter { height: 6px; margin: 3px 0 6px; }
svg.stacked { height: 18px; border-radius: 4px; margin-top: 14px; }
svg text { font: 11px system-ui, sans-serif; fill: var(--ink); }
svg .end { text-anchor: end; fill: var(--quiet); }
.bar, .part0 { fill: var(--blue); }
.tail, .part2 { fill: var(--grey); }
.part1, .good { fill: var(--green); }
.soft { fill: var(--soft); }
.warn { fill: var(--warn); }
.track { fill: var(--line); }
.axis { stroke: var(--line); }
.curve { fill: none; stroke-width: 1.5; stroke-linejoin: round; }
.curve0 { stroke: var(--soft); }
.curve1 { stroke: var(--blue); }
.node { fill: var(--card); stroke: var(--line); }
.rank { fill: var(--soft); }
svg.nodes { max-width: 760px; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 1px 12px; margin: 8px 0 0; font-size: 13px; }
dd { margin: 0; text-align: right; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 8px 0; padding: 0; list-style: none; font-size: 13px; }
.legend svg { display: inline-block; width: 10px; height: 10px; margin-right: 6px; }
.findings { list-style: none; margin: 14px 0; padding: 0; }
.findings li { background: var(--warn-soft); border-left: 3px solid var(--warn); border-radius: 4px; padding: 7px 12px;
  margin: 6px 0; overflow-wrap: anywhere; }
.step { margin: 12px 0; }
.step > .head { justify-content: flex-start; flex-wrap: wrap; margin-bottom: 2px; }
.step > p { margin: 2px 0 4px; overflow-wrap: anywhere; max-width: none; }
.change { display: grid; grid-template-columns: minmax(0, 1fr) 20px minmax(0, 1fr); gap: 12px; margin-top: 10px;
  align-items: center; }
.change > .arrow { color: var(--quiet); text-align: center; }
.side { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(220px, 100%), 1fr)); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13px; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: 4px 0 6px; }
th, td { text-align: right; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; }
td.words, th.words { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 9em; }
td.picture { width: 26%; min-width: 90px; }
summary { cursor: pointer; margin: 10px 0; color: var(--blue); font-size: 14px; }
@media (max-width: 640px) { main { padding: 18px 14px 40px; } .change { grid-template-columns: minmax(0, 1fr); }
  .change > .arrow { transform: rotate(90deg); } }
@media print { :root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #ccc;
  --blue: #2f6fb3; --soft: #cfe0f2; --grey: #a9b2bb; --warn: #c2591d; --warn-soft: #fff; --green: #2b8a6b; }
  body { font-size: 12px; } nav { display: none; } main { max-width: none; padding: 0; }
  .card, .step, .number, tr, li { break-inside: avoid; } h2 { break-after: avoid; }
  svg rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
