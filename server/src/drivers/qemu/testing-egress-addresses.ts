/** The addresses of the egress test: of the host, of a service on the public internet, and of what no guest reaches. */
export const HOST = '11.22.33.1'
export const PUBLIC = '11.22.33.9'
export const DNS = '10.9.0.53'
export const OUTSIDE = ['169.254.169.254', '10.9.0.1', '172.16.9.1', '192.168.9.1', '100.64.9.1', '10.9.0.7', DNS]
export const PORT = 7000
export const API_PORT = 7004
/** The guest's name of 127.0.0.1 of the host. */
export const GATEWAY = '100.96.0.2'
