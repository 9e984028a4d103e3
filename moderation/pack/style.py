"""What the page of a pack adds to the common style: the verdict, charts, tables that stack on a phone, and print."""

from typing import Final

STYLE: Final = """
body{max-width:1200px}
.verdict{border-left:8px solid currentColor;background:var(--card);border-radius:8px;padding:14px 18px;margin:0 0 12px}
.verdict h1{font-size:32px;line-height:1.15}.verdict p{color:var(--ink);margin:4px 0 0;font-size:17px}
.notice{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--warn);border-radius:6px;
padding:8px 12px;max-width:none}.reasons{padding-left:0;list-style:none;margin:14px 0}.reasons li{margin:0 0 8px}
nav{display:flex;flex-wrap:wrap;gap:4px 0;margin:14px 0}.stack td{vertical-align:top;overflow-wrap:anywhere}
.stack td:nth-child(1){width:112px}.stack td:nth-child(2){width:42%}.stack td:nth-child(3){width:34%}
.more>td{padding:0 0 8px 112px}.more summary{cursor:pointer;color:var(--accent);font-size:13px}
tr:has(+.more)>td{border-bottom:0}.more td td{overflow-wrap:normal}
.mark{color:var(--soft)}.mark.good{color:var(--good)}.mark.warn{color:var(--warn)}.mark.bad{color:var(--bad)}
.mark rect{fill:var(--good);opacity:.14}.mark .l{stroke:var(--ink);stroke-width:1.5}
.mark .b{stroke:currentColor;stroke-width:3}.mark circle{fill:currentColor}
path.g{stroke:var(--line)}path.t{stroke:var(--soft);stroke-dasharray:1 3}.legend{max-width:none}
.legend svg{display:inline-block;vertical-align:middle}
.swatch,.dot{display:inline-block;vertical-align:middle}.swatch{
width:22px;border-top:3px solid var(--accent)}
.swatch.old{border-top:3px dashed var(--mute)}.dots{min-width:80px}.name{white-space:nowrap}
.dots circle{fill:var(--accent)}.dots .r{fill:none;stroke:var(--mute);
stroke-width:2}.dot{width:10px;height:10px;border-radius:50%;background:var(--accent)}
.dot.ring{background:none;border:2px solid var(--mute)}
img{display:block;max-width:88px;max-height:88px;border-radius:4px}
pre{background:var(--card);
border:1px solid var(--line);border-radius:6px;padding:10px 12px;overflow-x:auto;font-size:13px}
@media(max-width:640px){body{padding:14px}.tile{flex-basis:140px}.stack thead{display:none}
.stack>tbody>tr>td{display:block;width:auto!important;border:0;padding:2px 0}
.stack>tbody>tr{display:block;border-bottom:1px solid var(--line);padding:8px 0}
.stack>tbody>tr.more>td{padding:0}.settle:not(:empty)::before{content:"to settle it: ";color:var(--soft)}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#bbb;--page:#fff;--card:#fff;--accent:#0b62c4;
--mute:#777;--good:#1a7f37;--warn:#9a6700;--bad:#b42318}body{max-width:none;padding:0;font-size:12px}nav{display:none}
h2,h3{break-after:avoid}tr,.tile,.pair>div,svg,img{break-inside:avoid}.scroll{overflow:visible}
details::details-content{content-visibility:visible;block-size:auto}*{print-color-adjust:exact}}
"""
