// The last hour of the main figures, as the curves want them. Pure.

export interface Figures {
  step_s: number
  at: number[]
  series: Record<string, (number | null)[]>
}

export function last(figures: Figures | undefined, name: string): number | undefined {
  const values = figures?.series[name]
  return values?.findLast(value => value != null) ?? undefined
}

/** The sum of several figures, where at least one is known. */
export function total(figures: Figures | undefined, names: string[]): number | undefined {
  const found = names.map(name => last(figures, name)).filter(value => value !== undefined)
  return found.length ? found.reduce((sum, value) => sum + value, 0) : undefined
}

export function values(figures: Figures, name: string): (number | null)[] {
  return figures.series[name] ?? figures.at.map(() => null)
}
