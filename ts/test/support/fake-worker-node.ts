import { serve } from '../../worker/boot.js'
import { nodeScope } from '../../worker/scope-node.js'
import { fakeAsks, fakeModule } from './fake-core.js'

fakeAsks.current = serve(nodeScope(), async () => fakeModule)
