// ---- tables: only the rows in sight exist, on paper all of them ----

const ROW = 24;
const AROUND = 12;

const shownNumber = {
  ms: (value) => (value === 0 ? "0" : Math.abs(value) < 0.00005 ? "<0.0001" : value.toFixed(4)),
  share: (value) => (value > 0 && value < 0.0005 ? "<0.1%" : (100 * value).toFixed(1) + "%"),
  percent: (value) => (100 * value).toFixed(1) + "%",
  count: (value) => String(value),
  number: (value) => (value === 0 || (Math.abs(value) >= 0.001 && Math.abs(value) < 1e6)
    ? String(Number(value.toPrecision(4))) : value.toExponential(2)),
};

// A list of rows in a scrolling box; a class below says what a row is.
class Rows {
  constructor(element, columns) {
    this.columns = columns;
    this.order = [];
    this.whole = false;
    this.sort = { column: -1, sign: 0 };
    this.table = element.querySelector("table");
    this.head = element.querySelector("thead");
    this.body = element.querySelector("tbody");
    this.scroll = element.querySelector(".scroll");
    this.scroll.addEventListener("scroll", () => requestAnimationFrame(() => this.paint()), { passive: true });
    this.makeHead();
  }

  makeHead() {
    const group = document.createElement("colgroup");
    const line = document.createElement("tr");
    let total = 0;
    this.columns.forEach((column, at) => {
      const width = this.width(column);
      total += width;
      const col = document.createElement("col");
      col.style.width = width + "ch";
      group.append(col);
      line.append(this.headCell(column, at));
    });
    this.table.prepend(group);
    this.table.style.width = total + "ch";
    this.head.append(line);
    this.head.addEventListener("keydown", (event) => this.moveInHead(event));
  }

  headCell(column, at) {
    const head = document.createElement("th");
    head.scope = "col";
    head.title = column.why;
    head.setAttribute("aria-sort", "none");
    if (column.kind !== "text") head.className = "n";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.head;
    button.tabIndex = at ? -1 : 0;
    button.addEventListener("click", () => this.sortBy(at));
    head.append(button);
    return head;
  }

  // One tab stop for all headings; arrows move among them.
  moveInHead(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const buttons = Array.from(this.head.querySelectorAll("button"));
    const next = buttons[buttons.indexOf(event.target) + step];
    if (!next) return;
    for (const button of buttons) button.tabIndex = button === next ? 0 : -1;
    next.focus();
  }

  width(column) {
    const head = column.head.length + 5;
    if (column.kind !== "text") return Math.max(head, column.kind === "ms" ? 11 : 9);
    return Math.max(head, column.width);
  }

  sortBy(at) {
    const first = this.columns[at].kind === "text" ? 1 : -1;
    const sign = this.sort.column === at ? { [first]: -first, [-first]: 0, 0: first }[this.sort.sign] : first;
    this.sort = { column: at, sign };
    Array.from(this.head.rows[0].cells).forEach((head, each) => head.setAttribute(
      "aria-sort", each !== at || !sign ? "none" : sign > 0 ? "ascending" : "descending"));
    this.choose();
  }

  // For printing: no row is left out.
  showAll(whole) {
    this.whole = whole;
    this.painted = null;
    this.paint();
  }

  paint() {
    // Before there are rows the box has no height yet.
    const height = Math.max(this.scroll.clientHeight, 480);
    const first = this.whole ? 0 : Math.max(0, Math.floor(this.scroll.scrollTop / ROW) - AROUND);
    const last = this.whole ? this.order.length
      : Math.min(this.order.length, Math.ceil((this.scroll.scrollTop + height) / ROW) + AROUND);
    if (this.painted === `${first} ${last}`) return;
    this.painted = `${first} ${last}`;
    this.table.setAttribute("aria-rowcount", this.order.length + 1);
    const lines = this.order.slice(first, last).map((row, at) => {
      const line = this.line(row);
      line.setAttribute("aria-rowindex", first + at + 2);
      return line;
    });
    this.body.replaceChildren(this.space(first), ...lines, this.space(this.order.length - last));
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

  textCell(shown, full) {
    const cell = document.createElement("td");
    cell.textContent = shown;
    cell.title = full ?? shown;
    return cell;
  }

  numberCell(kind, value, largest) {
    const cell = document.createElement("td");
    cell.className = "n";
    cell.textContent = value === null ? "–" : shownNumber[kind](value);
    if (kind === "share" && value > 0) {
      cell.classList.add("share");
      cell.style.setProperty("--w", 100 * Math.min(value / largest, 1) + "%");
    }
    return cell;
  }
}

class Sheet extends Rows {
  constructor(element, { rows, columns }) {
    for (const column of columns) {
      if (column.kind === "share") column.largest = column.values.reduce((most, value) => Math.max(most, value ?? 0), 0);
      if (column.kind === "text") {
        const longest = column.texts.reduce((most, text) => Math.max(most, text[0].length), 0);
        column.width = Math.min(longest + 3, column.hovers ? 46 : 30);
      }
    }
    super(element, columns);
    this.rows = rows;
    this.counted = element.querySelector("output");
    this.input = element.querySelector("input");
    this.found = columns.filter((column) => column.kind === "text").map((column) => (
      { codes: column.codes, texts: column.texts.map((text) => text.join(" ").toLowerCase()) }
    ));
    this.input.addEventListener("input", () => this.choose());
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

  line(row) {
    const line = document.createElement("tr");
    for (const column of this.columns) {
      line.append(column.kind === "text" ? this.textCell(...column.texts[column.codes[row]])
        : this.numberCell(column.kind, column.values[row], column.largest));
    }
    return line;
  }
}
