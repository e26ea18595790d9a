import { image } from './kinds/image.ts'
import { instance } from './kinds/instance.ts'
import { webhook } from './kinds/webhook.ts'
import type { Kind } from './workflow.ts'

/** THE LIST of kinds of resources. The matrix fails for a reconciler whose kind is not here. */
export const KINDS: readonly Kind[] = [instance, image, webhook]
