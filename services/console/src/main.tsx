import { render } from 'preact'
import { App } from './app'
import { follow } from './route'
import './styles.css'
import { followSystemTheme, startClock } from './ui/state'

followSystemTheme()
startClock()
follow()
const root = document.getElementById('app')
if (root) render(<App />, root)
