"""What a report calls, as its makers publish it; tests hold the checksums.

plotly.js 4.1.1, cartesian bundle (bars, lines, markers, heat maps), MIT License (plotly.LICENSE):
https://registry.npmjs.org/plotly.js-cartesian-dist-min/-/plotly.js-cartesian-dist-min-4.1.1.tgz.
A third of what the plotly package brings, and the same for whoever makes a page.

pako 2.2.0, its reader of gzip alone, MIT and Zlib Licenses (pako.LICENSE):
https://registry.npmjs.org/pako/-/pako-2.2.0.tgz.
"""
