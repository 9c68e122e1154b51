// Curves of the last hour: uPlot, in the page's colours.
import type { JSX } from 'preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import { clock, figure } from '../format'
import { painted } from './state'

export interface Line {
  name: string
  values: (number | null)[]
  /** Which of the page's colours for curves: 1 to 6. */
  colour: number
}

function colourOf(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim()
}

/** The value of `light-dark()` as the browser resolves it. */
function resolved(name: string): string {
  const probe = document.createElement('span')
  probe.style.color = `var(${name})`
  document.body.append(probe)
  const colour = getComputedStyle(probe).color
  probe.remove()
  return colour || colourOf(name)
}

function options(lines: Line[], width: number, height: number, onMove: (index: number | null) => void,
  unit: (value: number) => string): uPlot.Options {
  const text = resolved('--quiet')
  const grid = { stroke: resolved('--line'), width: 1 }
  const font = '11px system-ui, sans-serif'
  return {
    width,
    height,
    padding: [8, 26, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 }, drag: { x: false, y: false } },
    scales: { x: { time: true }, y: { range: (_, low, high) => [Math.min(0, low), high > 0 ? high * 1.1 : 1] } },
    axes: [
      {
        stroke: text, font, grid: { show: false }, ticks: { show: false }, size: 20, gap: 4, space: 70,
        values: (_, at) => at.map(value => ((at.at(-1) ?? 0) - (at[0] ?? 0) < 300 ? clock(value) : clock(value).slice(0, 5)))
      },
      { stroke: text, font, grid, ticks: { show: false }, size: 48, values: (_, all) => all.map(unit) }
    ],
    series: [{}, ...lines.map(line => {
      const stroke = resolved(`--curve-${line.colour}`)
      const fill = lines.length === 1 ? stroke.replace(/^rgb\((.*)\)$/, 'rgba($1, 0.1)') : ''
      return {
        label: line.name, stroke, width: 1.75, points: { show: false }, spanGaps: false, ...(fill ? { fill } : {})
      }
    })],
    hooks: { setCursor: [plot => { onMove(plot.cursor.idx ?? null) }] }
  }
}

export function Chart({ at, lines, title, unit = figure, height = 150 }: {
  at: number[], lines: Line[], title: string, unit?: (value: number) => string, height?: number
}): JSX.Element {
  const frame = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot | undefined>(undefined)
  const [index, setIndex] = useState<number | null>(null)
  const names = lines.map(line => line.name).join()
  const data = [at, ...lines.map(line => line.values)] as uPlot.AlignedData
  const colours = painted.value
  useEffect(() => {
    const element = frame.current
    if (!element) return
    const made = new uPlot(options(lines, element.clientWidth || 300, height, setIndex, unit), data, element)
    plot.current = made
    const observer = new ResizeObserver(() => {
      if (element.clientWidth) made.setSize({ width: element.clientWidth, height })
    })
    observer.observe(element)
    return () => {
      observer.disconnect()
      made.destroy()
    }
  }, [names, colours, height])
  useEffect(() => { plot.current?.setData(data) }, [at, lines])
  const shown = index ?? at.length - 1
  return (
    <figure class="chart" aria-label={title}>
      <figcaption>
        <span class="chart-title">{title}</span>
        <span class="chart-at">{index != null && at[shown] ? clock(at[shown]) : ''}</span>
        <span class="legend">{lines.map(line => {
          const value = line.values[shown]
          return (
            <span key={line.name} class={`legend-item curve-${line.colour}`}>
              <i />{line.name} <b>{value == null ? '–' : unit(value)}</b>
            </span>
          )
        })}</span>
      </figcaption>
      <div class="plot" ref={frame} />
    </figure>
  )
}
