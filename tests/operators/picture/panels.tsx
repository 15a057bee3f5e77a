// Draws one panel's frames with the component that Grafana's panel of that type is made of.

import {
  applyFieldOverrides, cacheFieldDisplayNames, type DataFrame, type Field, FieldColorModeId, type FieldConfigSource, FieldType, type FieldDisplay,
  getDisplayValueAlignmentFactors, getFieldDisplayValues, standardTransformers, standardTransformersRegistry, type TimeRange,
  transformDataFrame, VizOrientation,
} from '@grafana/data';
import { BarGauge, BigValue, TimeSeries, useTheme2, VizRepeater, type VizRepeaterRenderValueProps } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { lastValueFrom } from 'rxjs';

export interface Panel {
  id: number;
  type: string;
  title: string;
  description?: string;
  gridPos: { x: number; y: number; w: number; h: number };
  fieldConfig: FieldConfigSource<any>;
  options: any;
  targets: any[];
  transformations?: any[];
  maxDataPoints?: number;
}

interface Props {
  panel: Panel;
  frames: DataFrame[];
  range: TimeRange;
  width: number;
  height: number;
}

const same = (text: string) => text;

standardTransformersRegistry.setInit(() =>
  [...new Map(Object.values(standardTransformers).map((one: any) => [one.id, one])).values()].map((transformation) => ({
    id: transformation.id, name: transformation.name, transformation: async () => transformation,
    editor: () => null, imageDark: '', imageLight: '',
  }))
);

export function transformed(panel: Panel, frames: DataFrame[]): Promise<DataFrame[]> {
  return lastValueFrom(transformDataFrame(panel.transformations ?? [], frames));
}

export function Visualization(props: Props) {
  if (props.frames.every((frame) => frame.length === 0)) {
    return <div className="nothing">No data</div>;
  }
  switch (props.panel.type) {
    case 'timeseries':
      return <Graph {...props} />;
    case 'stat':
    case 'bargauge':
      return <Values {...props} />;
    case 'table':
      return <Rows {...props} />;
    default:
      return <div className="nothing">{`a panel of type ${props.panel.type} is not drawn`}</div>;
  }
}

/** What Grafana's panels say of fields for which the dashboard says nothing. */
function withDefaults(panel: Panel): FieldConfigSource<any> {
  const mode = panel.type === 'timeseries' ? FieldColorModeId.PaletteClassic : FieldColorModeId.Thresholds;
  const thresholds = { mode: 'absolute', steps: [{ color: 'green', value: -Infinity }, { color: 'red', value: 80 }] };
  return {
    defaults: { color: { mode }, thresholds, ...panel.fieldConfig.defaults } as FieldConfigSource['defaults'],
    overrides: panel.fieldConfig.overrides ?? [],
  };
}

/** Knows every property of a field: those of `custom` by that prefix, all others by their names. */
function properties(config: FieldConfigSource<any>) {
  const item = (id: string) => {
    const isCustom = id.startsWith('custom.');
    const process = (value: unknown) => value;
    const shouldApply = (field: Field) => (id !== 'min' && id !== 'max') || field.type === FieldType.number;
    return { id, isCustom, path: isCustom ? id.slice('custom.'.length) : id, process, shouldApply };
  };
  const custom = Object.keys(config.defaults.custom ?? {}).map((name) => `custom.${name}`);
  const plain = Object.keys(config.defaults).filter((name) => name !== 'custom');
  return { list: () => [...plain, ...custom].map(item), getIfExists: item } as any;
}

function useConfigured({ panel, frames }: Props): [FieldConfigSource, DataFrame[]] {
  const theme = useTheme2();
  const fieldConfig = withDefaults(panel);
  const fieldConfigRegistry = properties(fieldConfig);
  const data = applyFieldOverrides({ data: frames, fieldConfig, fieldConfigRegistry, replaceVariables: same, theme, timeZone: 'browser' });
  cacheFieldDisplayNames(data);
  return [fieldConfig, data];
}

function Graph(props: Props) {
  const { panel, range, width, height } = props;
  const [, frames] = useConfigured({ ...props, frames: props.frames.map(withoutNaN) });
  return <TimeSeries frames={frames} timeRange={range} timeZone="browser" width={width} height={height} legend={panel.options.legend} options={panel.options} />;
}

/** What is no number is a gap. */
function withoutNaN(frame: DataFrame): DataFrame {
  const fields = frame.fields.map((field) => ({ ...field, values: field.values.map((value) => (Number.isNaN(value) ? null : value)) }));
  return { ...frame, fields };
}

function Values(props: Props) {
  const { panel, width, height } = props;
  const { options } = panel;
  const theme = useTheme2();
  const [fieldConfig, data] = useConfigured(props);
  const isStat = panel.type === 'stat';
  const values = () =>
    getFieldDisplayValues({
      data, fieldConfig, reduceOptions: options.reduceOptions, replaceVariables: same, theme, timeZone: 'browser',
      sparkline: isStat && options.graphMode !== 'none',
    });
  return (
    <VizRepeater
      source={data} getValues={values} renderValue={isStat ? stat : bar} renderCounter={0} width={width} height={height}
      getAlignmentFactors={getDisplayValueAlignmentFactors} autoGrid={isStat} itemSpacing={isStat ? 3 : 10}
      orientation={options.orientation as VizOrientation} {...(isStat ? {} : barSizes(options))}
    />
  );

  function stat({ value, alignmentFactors, width, height, count }: VizRepeaterRenderValueProps<FieldDisplay, any>) {
    return (
      <BigValue
        value={value.display} count={count} sparkline={value.sparkline} colorMode={options.colorMode} graphMode={options.graphMode}
        justifyMode={options.justifyMode} textMode={options.textMode} alignmentFactors={alignmentFactors} text={options.text}
        width={width} height={height} theme={theme} disableWideLayout={options.wideLayout === false}
      />
    );
  }

  function bar({ value, alignmentFactors, width, height, orientation, count }: VizRepeaterRenderValueProps<FieldDisplay, any>) {
    return (
      <BarGauge
        value={value.display} field={value.field} display={value.view?.getFieldDisplayProcessor(value.colIndex!)} text={options.text}
        orientation={orientation} alignmentFactors={alignmentFactors} width={width} height={height} theme={theme} itemSpacing={10}
        displayMode={options.displayMode} showUnfilled={options.showUnfilled} valueDisplayMode={options.valueMode}
        namePlacement={options.namePlacement} isOverflow={count * 26 > props.height}
      />
    );
  }
}

function barSizes({ sizing, minVizWidth, minVizHeight, maxVizHeight }: Panel['options']) {
  return sizing === 'manual' ? { minVizWidth, minVizHeight, maxVizHeight } : { minVizWidth: 8, minVizHeight: 16, maxVizHeight: 300 };
}

function Rows(props: Props) {
  const { panel, range, width, height } = props;
  const [fieldConfig, [data]] = useConfigured(props);
  return (
    <TableNG
      data={data} width={width} height={height} timeRange={range} sortBy={panel.options.sortBy} fieldConfig={fieldConfig}
      cellHeight={panel.options.cellHeight} noHeader={!panel.options.showHeader} structureRev={1} getActions={() => []}
    />
  );
}
