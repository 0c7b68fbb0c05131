(function () {
  "use strict";
  const ROW = 24;
  const AROUND = 12;

  const parsed = (element) => JSON.parse(element.querySelector('script[type="application/json"]').textContent);

  // ---- figures: drawn when they come near, in the colours that the reader's system asks for ----

  const looks = JSON.parse(document.getElementById("xsp-looks").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const look = () => (dark.matches ? looks.dark : looks.light);

  function draw(figure) {
    if (figure.dataset.drawn) return;
    figure.dataset.drawn = "yes";
    const { data, layout } = parsed(figure);
    Plotly.newPlot(figure.querySelector(".plot"), data, { ...layout, template: look() }, {
      displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
    });
  }

  const drawings = Array.from(document.querySelectorAll("figure:not(.empty)"));
  dark.addEventListener("change", () => {
    for (const figure of drawings) {
      if (figure.dataset.drawn) Plotly.relayout(figure.querySelector(".plot"), { template: look() });
    }
  });

  // ---- tables: only the rows in sight exist ----

  const shownNumber = {
    ms: (value) => (value === 0 ? "0" : Math.abs(value) < 0.00005 ? "<0.0001" : value.toFixed(4)),
    share: (value) => (value > 0 && value < 0.0005 ? "<0.1%" : (100 * value).toFixed(1) + "%"),
    percent: (value) => (100 * value).toFixed(1) + "%",
    count: (value) => String(value),
    number: (value) => (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e6)
      ? String(Number(value.toPrecision(4))) : value.toExponential(2)),
  };

  class Sheet {
    constructor(element) {
      const { rows, columns } = parsed(element);
      for (const column of columns) {
        if (column.kind === "share") column.largest = column.values.reduce((most, value) => Math.max(most, value ?? 0), 0);
      }
      this.columns = columns;
      this.rows = rows;
      this.sort = { column: -1, sign: 0 };
      this.head = element.querySelector("thead");
      this.body = element.querySelector("tbody");
      this.scroll = element.querySelector(".scroll");
      this.counted = element.querySelector("output");
      this.input = element.querySelector("input");
      this.found = columns.filter((column) => column.kind === "text").map((column) => (
        { codes: column.codes, texts: column.texts.map((text) => text.join(" ").toLowerCase()) }
      ));
      this.makeHead(element.querySelector("table"));
      this.input.addEventListener("input", () => this.choose());
      this.scroll.addEventListener("scroll", () => requestAnimationFrame(() => this.paint()), { passive: true });
      this.choose();
    }

    makeHead(table) {
      const group = document.createElement("colgroup");
      const line = document.createElement("tr");
      let total = 0;
      this.columns.forEach((column, at) => {
        const width = this.width(column);
        total += width;
        const col = document.createElement("col");
        col.style.width = width + "ch";
        group.append(col);
        const head = document.createElement("th");
        head.scope = "col";
        head.title = column.why;
        head.setAttribute("aria-sort", "none");
        if (column.kind !== "text") head.className = "n";
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = column.head;
        button.addEventListener("click", () => this.sortBy(at));
        head.append(button);
        line.append(head);
      });
      table.prepend(group);
      table.style.width = total + "ch";
      this.head.append(line);
    }

    width(column) {
      const head = column.head.length + 5;
      if (column.kind !== "text") return Math.max(head, column.kind === "ms" ? 11 : 9);
      const longest = column.texts.reduce((most, text) => Math.max(most, text[0].length), 0);
      return Math.max(head, Math.min(longest + 3, column.hovers ? 46 : 30));
    }

    sortBy(at) {
      const first = this.columns[at].kind === "text" ? 1 : -1;
      const sign = this.sort.column === at ? { [first]: -first, [-first]: 0, 0: first }[this.sort.sign] : first;
      this.sort = { column: at, sign };
      Array.from(this.head.rows[0].cells).forEach((head, each) => head.setAttribute(
        "aria-sort", each !== at || !sign ? "none" : sign > 0 ? "ascending" : "descending"));
      this.choose();
    }

    // Every word must occur in one of the row's texts.
    matches(row, words) {
      return words.every((word) => this.found.some(({ codes, texts }) => texts[codes[row]].includes(word)));
    }

    // Rows without a value come last in both directions.
    ordered(rows) {
      const { column: at, sign } = this.sort;
      if (!sign) return rows;
      const { kind, codes, texts, values } = this.columns[at];
      if (kind === "text") {
        const order = texts.map((_, code) => code).sort((a, b) => texts[a][0].localeCompare(texts[b][0]));
        const rank = [];
        order.forEach((code, place) => { rank[code] = place; });
        return rows.sort((a, b) => sign * (rank[codes[a]] - rank[codes[b]]) || a - b);
      }
      return rows.sort((a, b) => {
        const x = values[a], y = values[b];
        if (x === null || y === null) return (x === null) - (y === null) || a - b;
        return sign * (x - y) || a - b;
      });
    }

    choose() {
      const words = this.input.value.toLowerCase().split(/\s+/).filter(Boolean);
      const every = Array.from({ length: this.rows }, (_, row) => row);
      this.order = this.ordered(words.length ? every.filter((row) => this.matches(row, words)) : every);
      this.counted.textContent = words.length ? `${this.order.length} of ${this.rows} rows` : `${this.rows} rows`;
      this.scroll.scrollTop = 0;
      this.painted = null;
      this.paint();
    }

    paint() {
      const first = Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - AROUND);
      const last = Math.min(this.order.length, Math.ceil((this.scroll.scrollTop + 480) / ROW) + AROUND);
      if (this.painted === `${first} ${last}`) return;
      this.painted = `${first} ${last}`;
      const lines = [this.space(first), ...this.order.slice(first, last).map((row) => this.line(row)),
        this.space(this.order.length - last)];
      this.body.replaceChildren(...lines);
    }

    space(rows) {
      const line = document.createElement("tr");
      line.className = "space";
      line.setAttribute("aria-hidden", "true");
      const cell = document.createElement("td");
      cell.colSpan = this.columns.length;
      cell.style.height = rows * ROW + "px";
      line.append(cell);
      return line;
    }

    line(row) {
      const line = document.createElement("tr");
      for (const column of this.columns) line.append(column.kind === "text" ? this.text(column, row) : this.number(column, row));
      return line;
    }

    text(column, row) {
      const [shown, full] = column.texts[column.codes[row]];
      const cell = document.createElement("td");
      cell.textContent = shown;
      cell.title = full ?? shown;
      return cell;
    }

    number({ kind, values, largest }, row) {
      const value = values[row];
      const cell = document.createElement("td");
      cell.className = "n";
      cell.textContent = value === null ? "–" : shownNumber[kind](value);
      if (kind === "share" && value > 0) {
        cell.classList.add("share");
        cell.style.setProperty("--w", 100 * value / largest + "%");
      }
      return cell;
    }
  }

  // ---- what is far away waits ----

  const make = new Map(drawings.map((figure) => [figure, () => draw(figure)]));
  for (const sheet of document.querySelectorAll(".sheet")) make.set(sheet, () => new Sheet(sheet));

  function need(element) {
    const ready = make.get(element);
    make.delete(element);
    if (ready) ready();
  }

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      need(entry.target);
    }
  }, { rootMargin: "800px" });
  for (const element of make.keys()) near.observe(element);
  window.addEventListener("beforeprint", () => Array.from(make.keys()).forEach(need));

  const links = new Map(Array.from(document.querySelectorAll("nav a"), (link) => [link.hash.slice(1), link]));
  const here = new IntersectionObserver((entries) => {
    for (const entry of entries) links.get(entry.target.id)?.classList.toggle("here", entry.isIntersecting);
  }, { rootMargin: "-45% 0px -54% 0px" });
  for (const section of document.querySelectorAll("section")) here.observe(section);
})();
