// ---- the stack: one tree, drawn as nested bars and listed as a table ----

// Nodes with their children and what they cost, from the columns of tree_data.py.
function grown(data) {
  const nodes = data.parent.map((parent, at) => {
    const text = (name) => (data[name][at] === null ? "" : data.texts[data[name][at]]);
    const cost = data.latency_ms[at] ?? 0;
    const busy = data.device_ms[at];
    return {
      at, parent, children: [], open: false, depth: 0, cost, busy,
      waiting: busy === null ? null : Math.max(cost - busy, 0),
      name: text("name"), title: text("title") || text("name"), type: text("type"),
      input: text("input"), output: text("output"), kind: data.kinds[data.kind[at] ?? data.kinds.length - 1],
      calls: data.calls[at], host: data.host_ms[at], half: data.host_ci_ms[at],
      costHalf: data.latency_ci_ms[at], kernels: data.kernels[at], hidden: data.hidden[at],
    };
  });
  for (const node of nodes) {
    if (node.parent < 0) continue;
    nodes[node.parent].children.push(node);
    node.depth = nodes[node.parent].depth + 1;
  }
  for (const node of nodes) {
    node.share = nodes[0].cost ? node.cost / nodes[0].cost : null;
    node.doubtful = node.costHalf !== null && node.cost > 0 && node.costHalf >= node.cost;
  }
  for (const at of data.open) nodes[at].open = true;
  return nodes;
}

function told(node) {
  const parts = [`${node.name}: ${shownNumber.ms(node.cost)} ms`];
  if (node.costHalf) parts.push(`±${shownNumber.ms(node.costHalf)}`);
  if (node.waiting !== null) parts.push(`(${shownNumber.ms(node.busy)} busy + ${shownNumber.ms(node.waiting)} waiting)`);
  if (node.share !== null) parts.push(`${shownNumber.share(node.share)} of the latency`);
  return parts.join(" ");
}

// Nested bars. One tab stop; arrows walk the tree, Enter opens a node, Escape goes back.
class Stack {
  constructor(element, nodes) {
    this.nodes = nodes;
    this.element = element.querySelector(".stack-nodes");
    this.said = element.querySelector("output");
    this.root = nodes[0];
    this.active = nodes[0];
    this.id = element.id;
    this.element.addEventListener("click", (event) => this.onNode(event, (node) => this.zoom(node)));
    this.element.addEventListener("mousemove", (event) => this.onNode(event, (node) => this.say(node)));
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.element.addEventListener("focus", () => this.mark());
    this.draw();
  }

  onNode(event, then) {
    const bar = event.target.closest(".stack-node");
    if (bar) then(this.nodes[bar.dataset.at]);
  }

  say(node) { this.said.textContent = told(node); }

  zoom(node) {
    this.root = node;
    this.active = node;
    this.draw();
    this.mark();
  }

  key(event) {
    const node = this.active;
    const above = node.parent < 0 ? null : this.nodes[node.parent];
    const beside = above ? above.children.filter((each) => each.cost > 0) : [node];
    const place = beside.indexOf(node);
    const largest = node.children.reduce((most, each) => (!most || each.cost > most.cost ? each : most), null);
    const next = {
      ArrowUp: above, ArrowDown: largest, ArrowLeft: beside[place - 1], ArrowRight: beside[place + 1],
      Home: this.nodes[0], Enter: node, " ": node, Escape: above ?? node,
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (!next) return;
    const opens = ["Enter", " ", "Escape", "Home"].includes(event.key);
    if (opens || !this.drawn.has(next.at)) this.zoom(event.key === "ArrowLeft" || event.key === "ArrowRight" ? above : next);
    this.active = next;
    this.mark();
  }

  mark() {
    this.element.querySelector(".stack-node.active")?.classList.remove("active");
    const bar = document.getElementById(`${this.id}-${this.active.at}`);
    if (bar) bar.classList.add("active");
    this.element.setAttribute("aria-activedescendant", bar ? bar.id : "");
    this.say(this.active);
  }

  draw() {
    this.drawn = new Set();
    const above = [];
    for (let at = this.root.parent; at >= 0; at = this.nodes[at].parent) above.unshift(this.nodes[at]);
    const bars = above.map((node, row) => this.bar(node, row, 0, 100));
    const deepest = above.length + 7;
    let rows = above.length;
    const place = (node, row, left, width) => {
      bars.push(this.bar(node, row, left, width));
      rows = Math.max(rows, row + 1);
      if (row + 1 > deepest) return;
      let at = left;
      for (const child of node.children) {
        const wide = node.cost ? width * child.cost / node.cost : 0;
        if (wide >= 0.12) place(child, row + 1, at, wide);
        at += wide;
      }
    };
    place(this.root, above.length, 0, 100);
    this.element.style.height = rows * 25 + "px";
    this.element.replaceChildren(...bars);
  }

  bar(node, row, left, width) {
    const [kind, colour, text] = node.kind;
    const bar = document.createElement("div");
    bar.className = node.hidden ? "stack-node pooled" : "stack-node";
    bar.id = `${this.id}-${node.at}`;
    bar.dataset.at = node.at;
    bar.setAttribute("role", "treeitem");
    bar.setAttribute("aria-level", node.depth + 1);
    bar.setAttribute("aria-selected", "false");
    if (node.children.length) bar.setAttribute("aria-expanded", "true");
    bar.setAttribute("aria-label", `${told(node)}, ${kind}`);
    bar.title = node.title;
    bar.style.cssText = `top:${row * 25}px;left:${left}%;width:${width}%;background-color:${colour};color:${text}`;
    if (node.waiting > 0 && node.cost > 0 && !node.children.length) {
      const idle = document.createElement("i");
      idle.style.width = 100 * node.waiting / node.cost + "%";
      bar.append(idle);
    }
    if (width > 1.6) {
      const name = document.createElement("span");
      name.textContent = node.name;
      bar.append(name);
    }
    this.drawn.add(node.at);
    return bar;
  }
}

const TREE_COLUMNS = [
  { head: "node", kind: "text", width: 46, of: (node) => node.name, why: "" },
  { head: "type", kind: "text", width: 18, of: (node) => node.type, why: "" },
  { head: "calls", kind: "count", of: (node) => node.calls, why: "Per run" },
  { head: "latency ms", kind: "ms", of: (node) => node.cost, why: "Its part of the latency: busy and waiting" },
  { head: "busy ms", kind: "ms", of: (node) => node.busy, why: "The GPU busy for it" },
  { head: "waiting ms", kind: "ms", of: (node) => node.waiting, why: "The GPU idle because of it" },
  { head: "share", kind: "share", of: (node) => node.share, why: "Of the model latency; ?: the interval is wider than the number" },
  { head: "host ms", kind: "ms", of: (node) => node.host, why: "The host's time in it" },
  { head: "±", kind: "ms", of: (node) => node.half, why: "Half of the 95 % interval of host ms" },
  { head: "kernels", kind: "count", of: (node) => node.kernels, why: "Per run, copies and sets included" },
  { head: "input", kind: "text", width: 24, of: (node) => node.input, why: "" },
  { head: "output", kind: "text", width: 24, of: (node) => node.output, why: "" },
];

// The same as a table that folds. Arrows move and fold, as in any tree.
class Tree extends Rows {
  constructor(element, nodes) {
    super(element, TREE_COLUMNS);
    this.nodes = nodes;
    this.active = nodes[0];
    this.table.setAttribute("role", "treegrid");
    const opened = new Set(nodes.filter((node) => node.open).map((node) => node.at));
    const tests = { fold: (node) => node.depth < 1, unfold: () => true, hot: (node) => opened.has(node.at) };
    for (const button of element.querySelectorAll(".tools button")) {
      button.addEventListener("click", () => this.unfold(tests[button.dataset.do]));
    }
    this.body.addEventListener("click", (event) => {
      const line = event.target.closest("tr[data-at]");
      if (!line) return;
      this.active = nodes[line.dataset.at];
      if (event.target.closest(".fold")) this.active.open = !this.active.open;
      this.choose(true);
    });
    this.body.addEventListener("keydown", (event) => this.key(event));
    this.choose();
  }

  unfold(test) {
    for (const node of this.nodes) node.open = test(node);
    this.choose();
  }

  sorted(children) {
    const { column: at, sign } = this.sort;
    if (!sign) return children;
    const { kind, of } = this.columns[at];
    return [...children].sort((a, b) => {
      const x = of(a), y = of(b);
      if (a.hidden || b.hidden) return (a.hidden > 0) - (b.hidden > 0);
      if (x === null || y === null) return (x === null) - (y === null) || a.at - b.at;
      return sign * (kind === "text" ? x.localeCompare(y) : x - y) || a.at - b.at;
    });
  }

  choose(focus = false) {
    this.order = [];
    const add = (node) => {
      this.order.push(node);
      if (node.open || this.whole) this.sorted(node.children).forEach(add);
    };
    add(this.nodes[0]);
    if (!this.order.includes(this.active)) this.active = this.nodes[0];
    this.painted = null;
    this.paint();
    if (focus) this.focus();
  }

  showAll(whole) {
    this.whole = whole;
    this.choose();
  }

  focus() {
    const top = this.order.indexOf(this.active) * ROW;
    const { scrollTop, clientHeight } = this.scroll;
    if (top < scrollTop + ROW) this.scroll.scrollTop = Math.max(top - ROW, 0);
    if (top > scrollTop + clientHeight - 3 * ROW) this.scroll.scrollTop = top - clientHeight + 3 * ROW;
    this.painted = null;
    this.paint();
    this.body.querySelector('tr[tabindex="0"]')?.focus({ preventScroll: true });
  }

  key(event) {
    const node = this.active;
    const place = this.order.indexOf(node);
    const leaf = !node.children.length;
    const moves = { ArrowDown: this.order[place + 1], ArrowUp: this.order[place - 1], Home: this.order[0], End: this.order.at(-1) };
    if (event.key in moves) {
      this.active = moves[event.key] ?? node;
    } else if (event.key === "ArrowRight") {
      if (node.open && !leaf) this.active = this.order[place + 1];
      else node.open = !leaf;
    } else if (event.key === "ArrowLeft") {
      if (node.open && !leaf) node.open = false;
      else if (node.parent >= 0) this.active = this.nodes[node.parent];
    } else if ((event.key === "Enter" || event.key === " ") && !leaf) {
      node.open = !node.open;
    } else {
      return;
    }
    event.preventDefault();
    this.choose(true);
  }

  line(node) {
    const line = document.createElement("tr");
    line.dataset.at = node.at;
    line.setAttribute("aria-level", node.depth + 1);
    line.tabIndex = node === this.active ? 0 : -1;
    if (node.children.length) line.setAttribute("aria-expanded", String(node.open || this.whole));
    for (const column of this.columns) line.append(this.cell(column, node));
    const [, colour] = node.kind;
    const name = line.cells[0];
    name.style.paddingLeft = 8 + node.depth * 16 + "px";
    name.title = node.title;
    const mark = document.createElement("span");
    mark.className = node.children.length ? "fold" : "leaf";
    mark.setAttribute("aria-hidden", "true");
    mark.textContent = node.children.length ? (node.open || this.whole ? "▾" : "▸") : "";
    const swatch = document.createElement("i");
    swatch.className = "swatch";
    swatch.style.backgroundColor = colour;
    name.prepend(mark, swatch);
    return line;
  }

  cell(column, node) {
    if (column.kind === "text") return this.textCell(column.of(node));
    const value = node.hidden && column.head !== "latency ms" && column.head !== "share" ? null : column.of(node);
    const cell = this.numberCell(column.kind, value, 1);
    if (column.kind === "share" && node.doubtful) {
      cell.textContent += "?";
      cell.classList.remove("share");
    }
    return cell;
  }
}
