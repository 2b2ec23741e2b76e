// The button that goes from the system's theme to light to dark.
import { icon } from "./icons.js";

const THEMES = ["system", "light", "dark"];

/** Makes `button` show and change the theme, which theme.js applies. */
export function themeButton(button) {
  const show = () => {
    const theme = sternaTheme.get();
    button.replaceChildren(icon(theme));
    button.title = `Theme: ${theme}`;
    button.setAttribute("aria-label", `Theme: ${theme}. Change`);
  };
  button.addEventListener("click", () => {
    sternaTheme.set(THEMES[(THEMES.indexOf(sternaTheme.get()) + 1) % THEMES.length]);
    show();
  });
  show();
}
