// Light, dark, or as the system has it. Loaded before the page is drawn, so that it does not flash.
(() => {
  const KEY = "sterna.theme";
  const apply = (theme) => {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
  };
  let theme = "system";
  try {
    theme = localStorage.getItem(KEY) ?? "system";
  } catch {
    // Storage is switched off: the system's theme.
  }
  apply(theme);
  window.sternaTheme = {
    get: () => document.documentElement.dataset.theme ?? "system",
    set: (next) => {
      apply(next);
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // It lasts as long as the page.
      }
    },
  };
})();
