(function (root) {
  if (!root || root.classList.contains("xsp-live")) return;
  root.classList.add("xsp-live");
  const body = root.querySelector("tbody");
  const rows = Array.from(body.rows).map((row, at) => ({
    row, at, children: [], open: false,
    depth: Number(row.dataset.depth),
    fold: row.querySelector(".xsp-fold"),
    values: Array.from(row.cells, (cell) => cell.dataset.v ?? cell.textContent),
  }));
  const roots = [];
  const path = [];
  for (const node of rows) {
    path.length = node.depth;
    (node.depth ? path[node.depth - 1].children : roots).push(node);
    path.push(node);
  }

  function show(nodes, visible) {
    for (const node of nodes) {
      node.row.hidden = !visible;
      if (node.fold) node.fold.setAttribute("aria-expanded", String(node.open));
      show(node.children, visible && node.open);
    }
  }

  // Siblings change places, the hierarchy stays. Rows without a value come last in both directions.
  function sorted(nodes, column, sign) {
    const kept = (node) => node.row.dataset.rest === undefined;
    const order = (a, b) => {
      if (kept(a) !== kept(b)) return kept(a) ? -1 : 1;
      if (!sign) return a.at - b.at;
      const x = a.values[column], y = b.values[column];
      if (x === "" || y === "") return (x === "") - (y === "") || a.at - b.at;
      const number = Number(x) - Number(y);
      return sign * (Number.isNaN(number) ? x.localeCompare(y) : number) || a.at - b.at;
    };
    nodes.sort(order);
    for (const node of nodes) {
      body.appendChild(node.row);
      sorted(node.children, column, sign);
    }
  }

  function open(test) {
    for (const node of rows) node.open = test(node);
    show(roots, true);
  }

  body.addEventListener("click", (event) => {
    const button = event.target.closest(".xsp-fold");
    const node = button && rows.find((each) => each.fold === button);
    if (!node) return;
    node.open = !node.open;
    show(roots, true);
  });
  const heads = Array.from(root.querySelectorAll("thead th"));
  heads.forEach((head, column) => head.addEventListener("click", () => {
    const next = { none: "descending", descending: "ascending", ascending: "none" }[head.getAttribute("aria-sort")];
    for (const each of heads) each.setAttribute("aria-sort", "none");
    head.setAttribute("aria-sort", next);
    sorted(roots, column, { none: 0, descending: -1, ascending: 1 }[next]);
  }));
  const opened = new Set((root.dataset.open || "").split(" "));
  const tools = {
    fold: () => open((node) => node.depth < 1),
    unfold: () => open(() => true),
    hot: () => open((node) => opened.has(String(node.at))),
  };
  root.querySelectorAll(".xsp-tools button").forEach((button) => button.addEventListener("click", tools[button.dataset.do]));
  tools.hot();
})(document.getElementById("XSP_ID"));
