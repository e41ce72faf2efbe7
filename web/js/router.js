// Pages by the address's hash: "#/camera/lobby" is page "camera" with argument "lobby".

/** Show pages in `host`. `pages` maps a name to a function of the argument that makes its element.
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
    addEventListener("hashchange", () => this.show(true));
  }

  /** Show the page of the address; with `moved` the focus goes to it, as after any navigation. */
  show(moved = false) {
    const [, name = "", argument = ""] = location.hash.split("/").map(decodeURIComponent);
    const page = Object.hasOwn(this.pages, name) ? name : this.home;
    this.shown?.stop?.();
    const node = this.kept.get(page) ?? this.pages[page](argument);
    if (node.keep) this.kept.set(page, node);
    node.dataset.page = page;
    this.shown = node;
    this.host.replaceChildren(node);
    node.start?.();
    for (const link of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll(".nav [data-page]"))) {
      if (link.dataset.page === page) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (moved) {
      scrollTo(0, 0);
      this.host.focus({ preventScroll: true });
    }
  }
}
