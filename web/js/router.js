// Pages by the address's hash: "#/camera/lobby" is page "camera" with argument "lobby".

/** Show pages in `host`. `pages` maps a name to a function of the argument that makes its element, or promises it.
 *
 * An element may have `stop()`, called when another page takes its place; one with `keep` is made once and shown again.
 */
export class Router {
  constructor(host, pages, home) {
    this.host = host;
    this.pages = pages;
    this.home = home;
    this.kept = new Map();
    this.shown = null;
    this.turn = 0;
    addEventListener("hashchange", () => this.show(true));
  }

  /** Show the page of the address; with `moved` the focus goes to it, as after any navigation. */
  async show(moved = false) {
    const turn = (this.turn += 1);
    const [, name = "", argument = ""] = location.hash.split("/").map(decodeURIComponent);
    const page = Object.hasOwn(this.pages, name) ? name : this.home;
    const node = this.kept.get(page) ?? await this.pages[page](argument);
    if (turn !== this.turn) {
      node.stop?.();
      return;
    }
    this.shown?.stop?.();
    if (node.keep) this.kept.set(page, node);
    node.dataset.page = page;
    this.shown = node;
    this.host.replaceChildren(node);
    node.start?.();
    for (const link of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".nav [data-page]"))) {
      if (link.dataset.page !== page) {
        link.removeAttribute("aria-current");
        continue;
      }
      link.setAttribute("aria-current", "page");
      // On a telephone the row of pages is wider than the screen.
      const row = /** @type {HTMLElement} */ (link.parentElement);
      const [own, whole] = [link.getBoundingClientRect(), row.getBoundingClientRect()];
      row.scrollLeft += own.left + own.width / 2 - (whole.left + whole.width / 2);
    }
    if (moved) {
      scrollTo(0, 0);
      this.host.focus({ preventScroll: true });
    }
  }
}
