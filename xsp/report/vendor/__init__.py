"""plotly.js 4.1.1, cartesian bundle (bars, lines, markers, heat maps), as its makers publish it:
https://registry.npmjs.org/plotly.js-cartesian-dist-min/-/plotly.js-cartesian-dist-min-4.1.1.tgz,
MIT License (plotly.LICENSE). A third of what the plotly package brings, and the same for whoever
makes a page; tests hold its checksum.
"""
