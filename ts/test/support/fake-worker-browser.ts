import { serve } from '../../worker/boot.js'
import { browserScope } from '../../worker/scope-browser.js'
import { fakeAsks, fakeModule } from './fake-core.js'

fakeAsks.current = serve(browserScope(), async () => fakeModule)
