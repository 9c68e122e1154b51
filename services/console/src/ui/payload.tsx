// A payload in the views that make sense of it.
import type { JSX } from 'preact'
import { useEffect, useMemo, useState } from 'preact/hooks'
import { bytes } from '../format'
import { imageType, render, views, type View } from '../mqtt/payload'
import { t } from '../texts'
import { Button, Segments } from './kit'
import { toast } from './state'

export function Payload({ payload, size, cut = false }: { payload: Uint8Array, size?: number, cut?: boolean }): JSX.Element {
  const possible = useMemo(() => views(payload), [payload])
  const [chosen, setChosen] = useState<View | undefined>()
  const view = chosen && possible.includes(chosen) ? chosen : possible[0] ?? 'text'
  const options = possible.map((name): [View, string] => [name, t.payload.views[name]])
  return (
    <div>
      <div class="payload-head">
        <span class="quiet-text">{bytes(size ?? payload.length)}{cut && ` · ${t.payload.cut(payload.length)}`}</span>
        <span class="bar">
          <Segments label={t.payload.view} value={view} options={options} onChange={setChosen} />
          {view !== 'image' && <Button kind="quiet" small icon="copy" label={t.copy} onClick={() => {
            void navigator.clipboard?.writeText(render(payload, view)).then(() => { toast(t.copied) })
          }} />}
        </span>
      </div>
      {payload.length === 0 ? <p class="quiet-text">{t.payload.empty}</p>
        : view === 'image' ? <Picture payload={payload} />
          : <pre class={`payload ${view}`} tabIndex={0}>{render(payload, view)}</pre>}
    </div>
  )
}

function Picture({ payload }: { payload: Uint8Array }): JSX.Element {
  const [url, setUrl] = useState('')
  useEffect(() => {
    const made = URL.createObjectURL(new Blob([payload.slice().buffer], { type: imageType(payload) ?? '' }))
    setUrl(made)
    return () => { URL.revokeObjectURL(made) }
  }, [payload])
  return url ? <img class="payload-image" src={url} alt={t.payload.image} /> : <span />
}
