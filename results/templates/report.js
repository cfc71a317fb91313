// Draws the page's pictures. Colours of text and lines come from the style sheet, so that they follow the theme.
"use strict";
{
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const plots = Object.keys(figures).map((id) => document.getElementById(id));
  // On a phone a legend has a line for each of its entries: the picture grows by them, so that the axes keep their height.
  const LEGEND_LINE = 20;
  const height = (plot) => {
    const { data, layout } = figures[plot.id];
    const entries = data.filter((trace) => trace.showlegend !== false).length;
    return layout.height + (plot.clientWidth < 500 && data.length > 1 ? LEGEND_LINE * Math.max(0, entries - 1) : 0);
  };
  const draw = (plot, layout) => {
    const whole = { ...figures[plot.id].layout, height: height(plot), dragmode: false, ...layout };
    return Plotly.react(plot, figures[plot.id].data, whole, { displayModeBar: false, responsive: true });
  };
  plots.forEach((plot) => draw(plot, {}));

  // On paper: pictures as wide as the text, and every table open.
  const PAPER_WIDTH = 680;
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => { details.open = true; });
    plots.forEach((plot) => draw(plot, { width: PAPER_WIDTH, autosize: false }));
  });
  addEventListener("afterprint", () => {
    opened.forEach((details) => { details.open = false; });
    plots.forEach((plot) => draw(plot, { autosize: true }));
  });
}
