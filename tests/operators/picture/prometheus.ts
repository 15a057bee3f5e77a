// Asks Prometheus what a panel asks it, as Grafana's data source does, and makes data frames of the answers.

import { type DataFrame, type Field, FieldType, dateTime, rangeUtil, type TimeRange } from '@grafana/data';

export interface Target {
  refId: string;
  expr: string;
  legendFormat: string;
  instant?: boolean;
  format?: string;
}

/** Where the answers are, and the time that is shown; `every`: seconds from scrape to scrape. */
export interface Recording {
  prometheus: string;
  from: number;
  to: number;
  every: number;
}

type Labels = Record<string, string>;
type Sample = [number, string];
interface Series {
  metric: Labels;
  value?: Sample;
  values?: Sample[];
}

export function timeRange({ from, to }: Recording): TimeRange {
  const [start, end] = [dateTime(from * 1000), dateTime(to * 1000)];
  return { from: start, to: end, raw: { from: start, to: end } };
}

/** The frames of all of a panel's targets, for so many points. */
export async function ask(recording: Recording, targets: Target[], chosen: Labels, points: number): Promise<DataFrame[]> {
  const { intervalMs } = rangeUtil.calculateInterval(timeRange(recording), points, `${recording.every}s`);
  const step = intervalMs / 1000;
  const answers = targets.map(async (target) => {
    const query = substituted(target.expr, { ...chosen, ...ownVariables(recording, step) });
    const series = await answer(recording, target, query, step);
    if (target.format === 'table') {
      return [table(series, targets.length > 1 ? `Value #${target.refId}` : 'Value')];
    }
    return series.map((one) => frame(one, target, step));
  });
  return (await Promise.all(answers)).flat();
}

function ownVariables({ from, to, every }: Recording, step: number): Labels {
  const range = Math.round(to - from);
  return {
    __rate_interval: `${Math.max(step + every, 4 * every)}s`,
    __interval: `${step}s`,
    __interval_ms: `${step * 1000}`,
    __range: `${range}s`,
    __range_s: `${range}`,
  };
}

function substituted(expression: string, variables: Labels): string {
  return expression.replace(/\$(\w+)|\$\{(\w+)\}/g, (whole, plain, braced) => {
    const value = variables[plain ?? braced];
    if (value === undefined) {
      throw new Error(`a variable is not known: ${whole}`);
    }
    return value;
  });
}

async function answer({ prometheus, from, to }: Recording, target: Target, query: string, step: number): Promise<Series[]> {
  const [start, end] = [Math.floor(from / step) * step, Math.floor(to / step) * step];
  const [path, when] = target.instant ? ['query', { time: `${to}` }] : ['query_range', { start: `${start}`, end: `${end}`, step: `${step}` }];
  const response = await fetch(`${prometheus}/api/v1/${path}?${new URLSearchParams({ query, ...when } as Labels)}`);
  const body = await response.json();
  if (body.status !== 'success') {
    throw new Error(`${query}: ${body.error}`);
  }
  return body.data.result;
}

function samples(series: Series): Sample[] {
  return series.values ?? (series.value ? [series.value] : []);
}

function field(name: string, type: FieldType, values: unknown[], more: Partial<Field> = {}): Field {
  return { name, type, values, config: {}, ...more };
}

function frame(series: Series, target: Target, step: number): DataFrame {
  const all = samples(series);
  const legend = target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, label) => series.metric[label] ?? '');
  const times = field('Time', FieldType.time, all.map(([time]) => time * 1000), { config: { interval: step * 1000 } });
  const values = field('Value', FieldType.number, all.map(([, value]) => Number(value.replace('Inf', 'Infinity'))), {
    labels: series.metric,
    config: { displayNameFromDS: legend },
  });
  return { refId: target.refId, name: legend, length: all.length, fields: [times, values] };
}

function table(series: Series[], value: string): DataFrame {
  const rows = series.flatMap((one) => samples(one).map((sample) => ({ labels: one.metric, sample })));
  const labels = [...new Set(rows.flatMap((row) => Object.keys(row.labels)))].sort();
  const fields = [
    field('Time', FieldType.time, rows.map((row) => row.sample[0] * 1000)),
    ...labels.map((label) => field(label, FieldType.string, rows.map((row) => row.labels[label] ?? ''))),
    field(value, FieldType.number, rows.map((row) => Number(row.sample[1]))),
  ];
  return { length: rows.length, fields };
}
