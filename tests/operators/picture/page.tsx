// The dashboard on a page: its rows and panels at their places, as wide as the window.
//
// It is no Grafana server: panels, legends, axes, units and colours are drawn by Grafana's component library; that they stand
// in a grid of 24 columns, and what stands above it, is of this file.

import { createTheme, type DataFrame, ThemeContext } from '@grafana/data';
import { GlobalStyles, Icon, PanelChrome, PortalContainer, ToolbarButton } from '@grafana/ui';
import { createRoot } from 'react-dom/client';
import { type Panel, transformed, Visualization } from './panels';
import { ask, type Recording, timeRange } from './prometheus';

const [COLUMNS, CELL, GAP, PADDING] = [24, 30, 8, 16];

interface Dashboard {
  title: string;
  panels: Panel[];
  templating: { list: Array<{ name: string; label: string; type: string; allValue?: string; current: { text?: string | string[]; value?: string | string[] } }> };
}

interface Answers {
  frames: DataFrame[];
  fault?: string;
}

const place = ({ x, y, w, h }: Panel['gridPos']) => {
  const column = (window.innerWidth - 2 * PADDING + GAP) / COLUMNS;
  return { left: x * column, top: y * (CELL + GAP), width: w * column - GAP, height: h * (CELL + GAP) - GAP };
};

async function main() {
  const dashboard: Dashboard = await load('dashboard.json');
  const recording: Recording = await load('recording.json');
  stopClock(recording.to * 1000);
  await Promise.all(['400 14px Inter', '500 14px Inter'].map((font) => document.fonts.load(font)));
  const chosen = Object.fromEntries(dashboard.templating.list.filter(({ type }) => type === 'query').map((one) => [one.name, value(one)]));
  const answers = new Map<number, Answers>();
  for (const panel of dashboard.panels.filter(({ type }) => type !== 'row')) {
    answers.set(panel.id, await answersFor(panel));
  }
  createRoot(document.getElementById('page')!).render(<Page dashboard={dashboard} recording={recording} answers={answers} />);

  async function answersFor(panel: Panel): Promise<Answers> {
    try {
      const points = panel.maxDataPoints ?? Math.round(place(panel.gridPos).width);
      return { frames: await transformed(panel, await ask(recording, panel.targets, chosen, points)) };
    } catch (error) {
      console.error(panel.title, error);
      return { frames: [], fault: String(error) };
    }
  }
}

async function load(name: string) {
  return (await fetch(name)).json();
}

/** "Five minutes ago" is from the recording's end. */
function stopClock(now: number) {
  const skew = Date.now() - now;
  const real = Date.now;
  const RealDate = Date;
  window.Date = class extends RealDate {
    constructor(...given: any[]) {
      given.length ? super(...(given as [])) : super(real() - skew);
    }
    static now() {
      return real() - skew;
    }
  } as DateConstructor;
}

function value({ allValue, current }: Dashboard['templating']['list'][0]): string {
  const values = [current.value ?? '$__all'].flat();
  return values.includes('$__all') ? allValue ?? '.*' : values.map((one) => one.replace(/[$^*{}[\]'+?.()|\\]/g, '\\\\$&')).join('|');
}

function Page({ dashboard, recording, answers }: { dashboard: Dashboard; recording: Recording; answers: Map<number, Answers> }) {
  const bottom = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={createTheme({ colors: { mode: 'dark' } })}>
      <GlobalStyles />
      <PortalContainer />
      <header>
        <strong>{dashboard.title}</strong>
        {dashboard.templating.list.map(({ name, label, current }) => (
          <span key={name} className="variable">
            <label>{label}</label>
            <span>{[current.text ?? 'Prometheus'].flat().join(' + ')}<Icon name="angle-down" /></span>
          </span>
        ))}
        <ToolbarButton icon="clock-nine" isOpen={false} variant="canvas">{`Last ${Math.round((recording.to - recording.from) / 60)} minutes`}</ToolbarButton>
      </header>
      <main style={{ height: bottom * (CELL + GAP) }}>
        {dashboard.panels.map((panel) => (
          <div key={panel.id} className="place" style={place(panel.gridPos)} data-row={panel.type === 'row' ? panel.title : undefined}>
            {panel.type === 'row' ? <Row title={panel.title} /> : <Chrome panel={panel} {...answers.get(panel.id)!} recording={recording} />}
          </div>
        ))}
      </main>
    </ThemeContext.Provider>
  );
}

function Row({ title }: { title: string }) {
  return <h2><Icon name="angle-down" />{title}</h2>;
}

function Chrome({ panel, frames, fault, recording }: Answers & { panel: Panel; recording: Recording }) {
  const { width, height } = place(panel.gridPos);
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height} statusMessage={fault}>
      {(width, height) => <Visualization panel={panel} frames={frames} range={timeRange(recording)} width={width} height={height} />}
    </PanelChrome>
  );
}

main().catch((error) => console.error(error));
