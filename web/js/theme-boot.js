// Runs before the first paint, so that a chosen theme never flashes the other one.
(function () {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => {
    let chosen = null;
    try { chosen = localStorage.getItem("crowdperf.theme"); } catch { /* storage is switched off: follow the system */ }
    const dark = chosen ? chosen === "dark" : system.matches;
    document.documentElement.dataset.theme = dark ? "dark" : "light";
  };
  system.addEventListener("change", follow);
  follow();
})();
