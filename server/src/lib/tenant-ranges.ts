import { contains } from './ip.ts'

const LOOPBACK = ['127.0.0.0/8', '::1']

/**
 * The IP addresses outside the public internet to which a project may send webhooks and from which it may import images:
 * the ranges of the operator, for other projects without those that contain a loopback address of the host. Pure.
 */
export function rangesFor(
  { allow_tenant_loopback }: { allow_tenant_loopback: boolean },
  ranges: readonly string[],
  isOperators: boolean,
): readonly string[] {
  if (isOperators || allow_tenant_loopback) return ranges
  return ranges.filter((range) => !LOOPBACK.some((own) => contains(own, range) || contains(range, own)))
}
